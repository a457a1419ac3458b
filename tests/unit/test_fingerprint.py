"""Fingerprints of models."""

from rankfleet.core.fingerprint import fingerprint, model_name
from rankfleet.core.sections import Tier

TIER = Tier(model="demo/small", revision="9e4aa353", quality=0.4)


def test_a_fingerprint_changes_with_everything_that_scores_depend_on() -> None:
    one = model_name("small", TIER, "auto", "c0ffee")
    assert one == model_name("small", TIER.model_copy(update={"quality": 0.5}), "auto", "c0ffee")
    others = {
        model_name("small", TIER.model_copy(update={"model": "demo/large"}), "auto", "c0ffee"),
        model_name("small", TIER.model_copy(update={"revision": None}), "auto", "c0ffee"),
        model_name("small", TIER, "int8", "c0ffee"),
        model_name("small", TIER, "auto", "decaf"),
        model_name("tiny", TIER, "auto", "c0ffee"),
    }
    assert len(others | {one}) == 6


def test_parts_are_not_joined() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
