"""Where in a document the passage is that scored best, from tokens to code points."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import decoders

from rankfleet.core.decisions import Stage
from rankfleet.core.messages import Chunk, ChunkScores, RankedDocument, RerankRequest
from rankfleet.core.passages import PassageRule, max_passages
from rankfleet.engine.text.pair_template import TextWrap
from rankfleet.engine.text.text_encoder import TextEncoder
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from tests.unit import fakes
from tests.unit.fakes import WORDS, FakeGroup, bpe_tokenizer, fleet, http_client, word_tokenizer
from tests.unit.openapi import check_documented, openapi_page
from tests.unit.test_beginnings import word_pieces

MOON = 3 + WORDS.index("moon")
DOGS, MOONS = "a dog " * 30, "the moon " * 30  # 60 tokens each, 180 and 270 characters
ENABLED = {"mode": "enabled"}


def service(**changes: Any) -> RankingService:
    """A pair of 64 tokens has room for 60 of a document beside a query of one word; passages with the moon score 1."""
    group = FakeGroup(lambda ids: float(MOON in ids))
    return fakes.service(group, **{"passage_overlap_tokens": 0, **changes})


def test_spans_are_in_code_points_and_have_no_white_space_around_them() -> None:
    encoder = word_tokenizer().encoder
    assert encoder.span("a dog  is an   animal", 1, 3) == (2, 9)
    assert encoder.span("😀 cat 😀😀 dog ", 1, 4) == (2, 12)
    assert encoder.span("a dog", 0, 2) == (0, 5)
    assert encoder.span("a dog", 1, 9) == (2, 5), "a long word, cut elsewhere, had more tokens"


def test_what_a_chat_template_adds_is_no_part_of_a_document() -> None:
    tokenizer = word_tokenizer().encoder._tokenizer
    encoder = TextEncoder(tokenizer, TextWrap(prefix="x ", suffix=" y", strip=True), fast=False)
    document = "  a dog is  "  # encoded as: x a dog is y
    assert [encoder.span(document, *tokens) for tokens in ((1, 4), (0, 2), (3, 5))] == [(2, 10), (2, 3), (8, 10)]
    encoder = TextEncoder(tokenizer, TextWrap(prefix="x ", suffix=" y y"), fast=False)
    assert [encoder.span(" a dog", *tokens) for tokens in ((0, 2), (1, 5), (3, 5))] == [(1, 2), (1, 6), (6, 6)]


def test_a_span_has_the_text_of_its_tokens_wherever_in_a_long_text_it_is() -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    encoder = TextEncoder(tokenizer)
    text = " ".join(f"Patient {i} was given the drug; {i % 7}% don't report a headache!\n" for i in range(400))
    (ids,) = encoder.encode_documents([text])
    for start, stop in ((0, 7), (5, 300), (1000, 1500), (len(ids) - 40, len(ids))):
        first, last = encoder.span(text, start, stop)
        assert text[first:last] == tokenizer.decode(ids[start:stop].tolist()).strip()


def test_normalized_texts_have_spans_in_the_text_as_sent() -> None:
    encoder = TextEncoder(word_pieces())
    text = "The WING heats naïve cafe\u0301 layers"  # accents are dropped: two code points become one letter
    (ids,) = encoder.encode_documents([text])
    words = [text[slice(*encoder.span(text, i, i + 1))] for i in range(len(ids))]
    assert "".join(words).replace(" ", "") == text.replace(" ", "")


def test_the_best_pair_of_a_document_is_the_first_of_equals() -> None:
    layout = max_passages(1, np.array([3, 9, 5]), 5, PassageRule(0, 16))
    assert layout.counts.tolist() == [1, 3, 2]
    assert layout.best_pairs(np.array([1.0, 2.0, 7.0, 7.0, -1.0, -2.0])).tolist() == [0, 2, 4]


def ends(document: RankedDocument) -> tuple[int, int]:
    """Of the document's span."""
    assert document.span is not None
    return document.span.start, document.span.stop


async def test_the_span_of_a_document_is_that_of_its_best_passage() -> None:
    documents = [f"{DOGS}{MOONS}", f"{MOONS}{DOGS}", "a dog ", "the moon"]
    ranking = await service().rank(RerankRequest("cat", documents, long_documents="max_passage", spans=True))
    assert ranking.passages == [2, 2, 1, 1]
    high, low = pytest.approx(0.73105858), 0.5  # sigmoid of 1 and 0
    assert ranking.documents == [
        RankedDocument(0, 1.0, 1.0, high, (180, 449, high)),
        RankedDocument(1, 1.0, 1.0, high, (0, 269, high)),
        RankedDocument(3, 1.0, 1.0, high, (0, 8, high)),
        RankedDocument(2, 0.0, 0.0, low, (0, 6, low)),  # a document of one passage is that passage
    ]
    ranking = await service().rank(RerankRequest("cat", documents, long_documents="max_passage"))
    assert [document.span for document in ranking.documents] == [None] * 4


async def test_a_document_of_several_queries_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, looked, span = service(), list[str](), TextEncoder.span

    def seen(encoder: TextEncoder, text: str, start: int, stop: int) -> tuple[int, int]:
        looked.append(text)
        return span(encoder, text, start, stop)

    monkeypatch.setattr(TextEncoder, "span", seen)
    document = f"{DOGS}{MOONS}"
    request = RerankRequest("", [document] * 3, queries=("cat", "sun", "car"), counts=(1, 1, 1), spans=True)
    ranking = await one.rank(replace(request, long_documents="max_passage"))
    assert [each.span and each.span[:2] for each in ranking.documents] == [(180, 449)] * 3
    assert looked == [document]


async def test_spans_belong_to_documents_by_their_places_in_the_request() -> None:
    documents = [DOGS + MOONS, MOONS + DOGS, DOGS + MOONS]
    request = RerankRequest("cat", documents, long_documents="max_passage", spans=True, scores=[1.0, 2.0, 3.0])
    spans = {document.index: ends(document) for document in (await service().rank(request)).documents}
    assert spans == {0: (180, 449), 1: (0, 269), 2: (180, 449)}
    several = RerankRequest("cat", documents[:2], queries=("cat", "x"), long_documents="max_passage", spans=True)
    spans = {document.index: ends(document) for document in (await service().rank(several)).documents}
    assert spans == {0: (180, 449), 1: (0, 269), 2: (180, 449), 3: (0, 269)}


async def test_what_is_not_read_is_in_no_span() -> None:
    one = service(limits={"max_passages": 1})
    request = RerankRequest("cat", [DOGS + MOONS], long_documents="max_passage", spans=True)
    ranking = await one.rank(request)
    assert (ranking.truncated, ends(ranking.documents[0])) == ([0], (0, 179))
    one = service(candidates="ranked", quality={"retriever": 0.2})
    one.fleet.update_latency({tier: LatencyModel(500, 0, 0) for tier in ("small", "medium", "large")})
    ranking = await one.rank(RerankRequest("cat", ["a dog"], slo_ms=5, long_documents="max_passage", spans=True))
    assert ranking.documents == [RankedDocument(0)]


async def test_a_second_stage_has_spans_of_its_own(tmp_path: Path) -> None:
    class Late(FakeGroup):
        """`small` prefers passages with the moon, and `large` those without."""

        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            scores = await super().score(chunk, entry)
            logits = scores.logits if chunk.tier == "small" else 1 - scores.logits
            return ChunkScores(logits, 1.0, 2.0, "r1", 0.0, chunk.tier)

    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"retriever": 0.2, "cascades": {"small>large": {"1": 0.45}}}}}))
    config = fleet(quality={"table": str(table)}, network_ms=3, passage_overlap_tokens=0)
    tokenizers = dict.fromkeys(config.tiers, word_tokenizer()) | {"large": word_tokenizer(34)}
    one = fakes.service(Late(lambda ids: float(MOON in ids)), config, tokenizers)
    times = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 2.0)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in times.items()})
    documents = [DOGS + MOONS, MOONS + DOGS, "a dog"]
    ranking = await one.rank(RerankRequest("cat", documents, slo_ms=300, long_documents="max_passage", spans=True))
    assert ranking.stages == (Stage.of("small", 3), Stage.of("large", 1))
    # large reads 30 tokens of a document beside the query: the first of four passages has no moon.
    assert [(d.index, ends(d)) for d in ranking.documents] == [(0, (0, 89)), (1, (0, 269)), (2, (0, 5))]


async def test_native_results_have_spans_in_the_form_of_cohere() -> None:
    body = {"query": "cat", "documents": [DOGS + MOONS, "a dog"]}
    high, low = pytest.approx(0.73105858), 0.5  # sigmoid of 1 and 0
    async with http_client(service()) as http:
        for path in ("/v1/rerank", "/v2/rerank"):
            for asked, expected in (
                (ENABLED, [[{"start": 180, "end": 449, "score": high}], [{"start": 0, "end": 5, "score": low}]]),
                (
                    {"mode": "enabled", "threshold": 0.6, "max_spans": 3},
                    [[{"start": 180, "end": 449, "score": high}], None],
                ),
                (
                    {"mode": "enabled", "threshold": None, "max_spans": None},
                    [[{"start": 180, "end": 449, "score": high}], [{"start": 0, "end": 5, "score": low}]],
                ),
                ({"mode": "disabled"}, [None, None]),
                (None, [None, None]),
            ):
                reply = await http.post(path, json=body | {"relevant_spans": asked})
                assert [row.get("relevant_spans") for row in reply.json()["results"]] == expected
                check_documented(await openapi_page(http), reply)
        with_lists = {"queries": ["cat", "x"], "documents": [DOGS + MOONS], "relevant_spans": ENABLED}
        reply = await http.post("/v1/rerank", json=with_lists)
        assert [each[0]["relevant_spans"][0]["start"] for each in reply.json()["results"]] == [180, 180]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"relevant_spans": {}}, "relevant_spans.mode: Field required"),
        ({"relevant_spans": {"mode": "on"}}, "relevant_spans.mode: "),
        ({"relevant_spans": {"mode": "enabled", "max_spans": 0}}, "relevant_spans.max_spans: "),
        ({"relevant_spans": {"mode": "enabled", "threshold": 2}}, "relevant_spans.threshold: "),
        ({"relevant_spans": {"mode": "enabled", "size": 2}}, "relevant_spans.size: "),
        ({"relevant_spans": ENABLED, "long_documents": "truncate"}, "leave long_documents out, or send max_passage"),
    ],
)
async def test_wishes_for_spans_that_cannot_be_fulfilled_are_refused(asked: dict, message: str) -> None:
    async with http_client(service()) as http:
        refused = await http.post("/v1/rerank", json={"query": "cat", "documents": ["a dog"]} | asked)
    assert (refused.status_code, message in refused.json()["error"]["message"]) == (422, True), refused.text
