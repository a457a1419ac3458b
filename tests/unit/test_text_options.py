"""What is done with a request's texts before they are scored."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rankfleet.api.dialects.text_fields import text_options
from rankfleet.core.decisions import Plan
from rankfleet.core.errors import InvalidRequest, TooLarge
from rankfleet.core.messages import RerankRequest
from rankfleet.core.text_options import AS_SENT, TextOptions
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.service import RankingService
from tests.unit.fakes import FakeGroup, fleet, instructed_tokenizer, service, word_tokenizer

TIERS = fleet().model_dump()["tiers"]


def asking(documents: list[str], scores: list[float] | None = None, **options: Any) -> RerankRequest:
    return RerankRequest("cat", documents, scores=scores, options=TextOptions(**options))


def with_limits(group: FakeGroup | None = None, **max_tokens: int) -> RankingService:
    """A fleet whose tiers take pairs of these lengths."""
    tiers = {name: tier | {"max_tokens": max_tokens.get(name)} for name, tier in TIERS.items()}
    return service(group, tiers=tiers)


def test_what_is_the_same_as_leaving_it_out_costs_nothing() -> None:
    none = {"instruction": "", "query_tokens": 0, "document_tokens": 0, "pair_tokens": -1, "cut_side": "right"}
    for asked in ({}, none, dict.fromkeys(none), {"may_cut": True}):
        assert text_options(**asked) is AS_SENT
    assert text_options(may_cut=False, document_tokens=3) == TextOptions(may_cut=False, document_tokens=3)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        (AS_SENT, 64),
        (TextOptions(pair_tokens=500), 64),
        (TextOptions(pair_tokens=20, document_tokens=30), 20),
        (TextOptions(query_tokens=5, document_tokens=30), 5),
    ],
)
def test_a_pair_that_has_lost_tokens_has_at_least_as_many_as_the_lowest_limit(
    options: TextOptions, tokens: int
) -> None:
    assert options.shortest_cut(64) == tokens


async def test_tiers_without_a_place_for_the_instruction_do_not_answer() -> None:
    tokenizers = {"small": instructed_tokenizer(), "medium": instructed_tokenizer(), "large": word_tokenizer()}
    one = service(tokenizers=tokenizers)
    ranking = await one.rank(asking(["a dog"], instruction="sun moon"))
    assert ranking.plan.tier == "medium"
    assert ranking.tokens == 9  # the sun moon sat, cat [SEP] a dog [SEP]
    with pytest.raises(InvalidRequest, match="instruction: the prompt of large has no place for one; leave it out"):
        await one.rank(replace(asking(["a dog"], instruction="sun"), model="large"))
    with pytest.raises(InvalidRequest, match="the prompt of small, medium, large has no place for one"):
        await service().explain(asking(["a dog"], instruction="sun"))


async def test_tiers_with_one_prompt_stay_alike() -> None:
    group, shared = FakeGroup(), instructed_tokenizer()
    one = service(group, tokenizers=dict.fromkeys(TIERS, shared))
    one.fleet.update_latency({tier: LatencyModel(ms, 0, 0) for tier, ms in (("small", 1), ("medium", 2), ("large", 3))})
    await one.rank(replace(asking(["a dog"], instruction="sun"), slo_ms=1000))
    assert {*group.chunks[0].tiers} == {"small", "medium", "large"}
    assert shared.template.before == [1], "the tokenizer of other requests is as before"


async def test_an_instruction_has_the_limits_of_a_query() -> None:
    one = service(tokenizers=dict.fromkeys(TIERS, instructed_tokenizer(12)), limits={"max_query_bytes": 60})
    with pytest.raises(TooLarge, match="instruction is longer than the 60 bytes allowed"):
        await one.rank(asking(["a"], instruction="sun " * 16))
    with pytest.raises(InvalidRequest, match="instruction: the prompt leaves no room for texts in pairs of small, med"):
        await one.rank(asking(["a"], instruction="sun " * 8))
    assert (await one.rank(asking(["a"], instruction="sun " * 6))).tokens == 12  # 8 and 2 around two words


async def test_a_pair_limit_below_the_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="truncate_prompt_tokens: the prompt leaves no room for texts in pairs"):
        await service().rank(asking(["a dog"], pair_tokens=3))
    assert (await service().rank(asking(["a dog"], pair_tokens=4))).tokens == 4


async def test_what_the_client_has_cut_is_reported_by_the_place_it_was_sent_in() -> None:
    documents = ["a dog is", "a", "a dog is an animal", "the"]
    ranking = await service().rank(asking(documents, scores=[1.0, 4.0, 3.0, 2.0], document_tokens=2))
    assert ranking.truncated == [0, 2]
    assert ranking.tokens == 6 + 5 + 6 + 5
    beside_cut_query = await service().rank(replace(asking(documents, query_tokens=1), query="cat sat"))
    assert beside_cut_query.truncated == [0, 1, 2, 3]


async def test_a_second_stage_reads_what_the_first_has_read(tmp_path: Any) -> None:
    table = tmp_path / "table.json"
    figures = {"small": 0.3, "medium": 0.3, "large": 0.5}
    cascades = {"small>large": {"2": 0.49}}
    table.write_text(f'{{"data_sets": {{"mine": {{"tiers": {figures}, "cascades": {cascades}}}}}}}'.replace("'", '"'))
    group = FakeGroup()
    one = service(group, quality={"table": str(table)})
    one.fleet.update_latency({t: LatencyModel(ms, 0, 0) for t, ms in (("small", 1), ("medium", 900), ("large", 1))})
    one.fleet.update_latency({"large": LatencyModel(0, 5, 0)})
    ask = asking(["a dog is an animal", "a", "a dog is", "the sun"], document_tokens=2)
    ranking = await one.rank(replace(ask, slo_ms=80))
    assert [(stage.tier, stage.candidates) for stage in ranking.stages] == [("small", 4), ("large", 2)]
    assert group.chunks[1].pairs.lengths.tolist() == [6, 6]
    assert ranking.truncated == [0, 2]


async def test_tiers_that_would_have_to_cut_do_not_answer_where_nothing_may_be_cut() -> None:
    group = FakeGroup()
    one = with_limits(group, small=20, medium=10, large=8)
    documents = ["a dog", "a dog is an animal sat on"]  # pairs of 6 and 11 tokens
    assert (await one.rank(asking(documents))).plan.tier == "large"
    ranking = await one.rank(asking(documents, may_cut=False))
    assert (ranking.plan.tier, ranking.truncated) == ("small", [])
    assert len(group.chunks) == 2
    for more in ("large", None):
        documents = ["the " * 30, "a", "the " * 40]
        reads = more or "small"
        with pytest.raises(TooLarge, match=f"longer than {reads} reads: document 0, 2; shorten them, or let them be"):
            await one.rank(replace(asking(documents, scores=[1.0, 3.0, 2.0], may_cut=False), model=more))
        with pytest.raises(TooLarge):
            await one.explain(replace(asking(documents, may_cut=False), model=more))
    assert len(group.chunks) == 2, "refused before anything is scored"


async def test_no_plan_cuts_texts_that_may_not_be_cut() -> None:
    one = service(tokenizers=dict.fromkeys(TIERS, word_tokenizer(256)), network_ms=0)
    one.fleet.update_latency(dict.fromkeys(TIERS, LatencyModel(0, 0.1, 0)))  # 10 tokens a ms
    ask = replace(
        asking([f"{i} " + "the " * 195 for i in range(40)]), slo_ms=401
    )  # 40 pairs of 200 tokens would take 800 ms
    decisions = [await one.explain(replace(ask, options=TextOptions(may_cut=may_cut))) for may_cut in (True, False)]
    assert [decision.degraded for decision in decisions if isinstance(decision, Plan)] == [
        "100 tokens a pair",
        "first 20 of 40",
    ]


async def test_requests_with_limits_of_their_own_teach_the_router_nothing_wrong() -> None:
    # Of 2,400 letters, 60 tokens are read. A router that took this for the ratio would underestimate others.
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}})
    await one.rank(asking(["the " * 600], document_tokens=56))
    assert one.reader.learned.bounds[None].lower_bound(RerankRequest("cat", ["the"]), {"small": 64}) == {}
    await one.rank(asking(["the sun"], document_tokens=56))
    (work,) = one.reader.learned.bounds[None].lower_bound(RerankRequest("cat", ["the " * 600]), {"small": 64}).values()
    assert work.tokens == 64


async def test_an_instruction_is_not_taken_for_tokens_of_the_texts() -> None:
    one = service(tokenizers=dict.fromkeys(TIERS, instructed_tokenizer()))
    await one.rank(asking(["the sun"], instruction="sun " * 20))
    assert one.reader.learned.bounds[None].lower_bound(RerankRequest("cat", ["the"]), {"small": 64}) == {}


async def test_passages_of_a_document_whose_beginning_is_cut_off_are_its_last() -> None:
    group = FakeGroup()
    one = service(group, passage_overlap_tokens=0)
    documents = [f"{'sun ' * 60}{'moon ' * 60}{'dog ' * 60}"]
    ranking = await one.rank(asking(documents, max_passages=2, cut_side="left"))
    ids = np.split(group.chunks[0].pairs.ids, 2)
    assert [part[3:-1].tolist() for part in ids] == [[15] * 60, [5] * 60]
    assert (ranking.passages, ranking.truncated) == ([2], [0])
