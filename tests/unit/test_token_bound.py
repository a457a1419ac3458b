"""What is refused before its texts are tokens."""

import numpy as np
import pytest

from rankfleet.core.errors import Overloaded
from rankfleet.core.messages import RerankRequest
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.service import RankingService
from rankfleet.router.token_bound import REMEMBERED, TokenLowerBound
from tests.unit.fakes import FakeGroup, send, service

DOCUMENTS = [f"a dog is an animal{i}" for i in range(40)]


def lengths(*tokens: int) -> dict[str, Lengths]:
    """Of pairs, at the only tier."""
    return {"small": Lengths(np.array(tokens))}


def test_the_fewest_tokens_per_character_count() -> None:
    token_bound, limits = TokenLowerBound(), {"small": 64, "large": 512}
    ask = RerankRequest("ab", ["a" * 8, "b" * 18])  # pairs of 10 and 20 characters
    assert token_bound.lower_bound(ask, limits) == {}
    token_bound.learn(ask, lengths(5, 10), limits)  # half a token a character
    token_bound.learn(ask, lengths(10, 20), limits)
    # 0.9 · 0.5 · 10 = 4.5 and 9, rounded down
    assert token_bound.lower_bound(ask, limits) == dict.fromkeys(limits, Work(2, 13, 16 + 81))
    for _ in range(REMEMBERED):
        token_bound.learn(ask, lengths(10, 20), limits)
    assert token_bound.lower_bound(ask, limits)["small"].tokens == 9 + 18, "what was long ago is forgotten"


def test_pairs_are_no_longer_than_the_limit_and_cut_or_split_ones_are_ignored() -> None:
    token_bound, limits = TokenLowerBound(), {"small": 64}
    token_bound.learn(RerankRequest("a", ["b" * 99]), lengths(10), limits)  # a tenth of a token a character
    token_bound.learn(RerankRequest("a", ["b" * 9000]), lengths(64), limits)
    token_bound.learn(
        RerankRequest("a", ["b" * 999]), {"small": Lengths(np.array([25, 25]), firsts=np.array([0]))}, limits
    )
    assert token_bound.lower_bound(RerankRequest("a", ["b" * 499]), limits) == {"small": Work(1, 45, 45 * 45)}
    assert token_bound.lower_bound(RerankRequest("a", ["b" * 999]), limits) == {"small": Work(1, 64, 64 * 64)}


def strict(group: FakeGroup) -> RankingService:
    one = service(group, slo_classes={"fast": {"slo_ms": 50, "when_none_fits": "refuse"}})
    one.fleet.update_latency({tier: LatencyModel(0, 1.0, 0) for tier in ("small", "medium", "large")})
    return one


async def test_a_request_that_is_certainly_too_large_is_refused_before_it_is_tokenized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = FakeGroup()
    one = strict(group)
    few, many = DOCUMENTS[:2], DOCUMENTS
    await one.rank(RerankRequest("cat", few, model="fast"))
    send(one, 1.0)  # something is under way
    tokenized: list[RerankRequest] = []
    monkeypatch.setattr(one.reader, "read", lambda request, tiers: tokenized.append(request))
    with pytest.raises(Overloaded, match="looks like too much for 50 ms"):  # a guess: never that it is impossible
        await one.rank(RerankRequest("cat", many, model="fast"))
    assert tokenized == []
    assert len(group.chunks) == 1


async def test_only_requests_that_would_be_refused_are_refused_early() -> None:
    one = strict(FakeGroup())
    few = DOCUMENTS[:2]
    await one.rank(RerankRequest("cat", few, model="fast"))
    assert (await one.rank(RerankRequest("cat", few, model="fast"))).plan.fits
    # Without a budget, or in a class that degrades, nothing is refused.
    assert await one.rank(RerankRequest("cat", DOCUMENTS))
    assert await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=50))


async def test_an_idle_router_counts_tokens_before_it_refuses() -> None:
    one = strict(FakeGroup())
    await one.rank(RerankRequest("cat", DOCUMENTS[:2], model="fast"))
    # Many characters that are hardly any tokens: 20 pairs of 4 words.
    assert (await one.rank(RerankRequest("cat", ["a" + " " * 400 + word for word in "bcdef"], model="fast"))).plan.fits
