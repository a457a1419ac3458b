"""What a request asks to be done with its texts, over HTTP, against the same texts prepared by hand."""

from pathlib import Path

import pytest
import yaml

from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Reranker
from tests.engine.checkpoints import qwen2_reranker
from tests.integration.fleet import DOCUMENTS, PASSAGES, QUERY, RIGHT, FleetFile, RunningFleet, wait_for


def logits(fleet: RunningFleet, documents: list, **fields: object) -> list[float]:
    """Of the documents in the order given, by the small tier."""
    reply = fleet.rerank(QUERY, documents, **{"model": "small", **fields})
    assert reply.status_code == 200, reply.text
    return [result["logit"] for result in sorted(reply.json()["results"], key=lambda result: result["index"])]


def test_texts_are_cut_as_if_the_client_had_cut_them(running_fleet: RunningFleet) -> None:
    tokenizer = load_tokenizer(find_checkpoint("demo/small"))
    query, first, last = map(len, tokenizer.encode([QUERY, RIGHT, f" {RIGHT}"]))
    long = f"{RIGHT} {PASSAGES[3]}"
    assert logits(running_fleet, [long], max_tokens_per_doc=first) == logits(running_fleet, [RIGHT])
    longest = query + last + tokenizer.template.tokens
    behind = {"truncate_prompt_tokens": longest, "truncation_side": "left"}
    assert logits(running_fleet, [f"{PASSAGES[3] * 40} {RIGHT}"], **behind) == logits(running_fleet, [f" {RIGHT}"])


def test_texts_that_may_not_be_cut_and_images_and_instructions_are_refused(running_fleet: RunningFleet) -> None:
    refused = running_fleet.rerank(QUERY, ["word " * 9000], truncation=False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    instructed = running_fleet.rerank(QUERY, DOCUMENTS, instruction="Find opinions.")
    message = "instruction: the prompt of small, medium, large has no place for one; leave it out"
    assert (instructed.status_code, instructed.json()["error"]["message"]) == (422, message)
    image = running_fleet.http.post("/jina/v1/rerank", json={"query": QUERY, "documents": [{"image": "aGk="}]})
    assert (image.status_code, "documents.0: 'image' is not supported" in image.json()["detail"]) == (422, True)


def test_structured_documents_score_as_their_yaml(running_fleet: RunningFleet) -> None:
    pages = [{"id": i, "title": f"Page {i}: news", "body": text, "tags": ["a"]} for i, text in enumerate(PASSAGES * 20)]
    fields = ["title", "body"]
    # What Cohere's clients send, as langchain-cohere makes it.
    texts = [yaml.dump({field: page[field] for field in fields}, sort_keys=False) for page in pages]
    assert logits(running_fleet, pages, rank_fields=fields) == logits(running_fleet, texts)


def test_an_instruction_reaches_a_model_whose_prompt_shows_one(running_fleet: RunningFleet, tmp_path: Path) -> None:
    folder = qwen2_reranker(tmp_path)

    def exchange(file: FleetFile) -> None:
        file["tiers"]["small"]["model"] = str(folder)
        file["groups"]["demo"]["dtype"] = "float32"

    before = running_fleet.models()["small"]
    running_fleet.apply(exchange)
    try:
        wait_for(lambda: running_fleet.models()["small"] != before, "the tier has the other model")
        plain = logits(running_fleet, DOCUMENTS)
        reply = running_fleet.rerank(QUERY, DOCUMENTS, instruction="Judge the pair.")
        assert reply.json()["rankfleet"]["tier"] == "small", "no other tier takes an instruction"
        served = sorted(reply.json()["results"], key=lambda result: result["index"])
    finally:
        running_fleet.apply()
    alone = Reranker.load(Checkpoint(folder), "float32", "cpu")
    assert plain == pytest.approx(alone.score(QUERY, DOCUMENTS).tolist(), abs=1e-4)
    instructed = alone.tokenizer.instructed("Judge the pair.")
    assert instructed is not None
    expected = Reranker(alone.scorer, instructed).score(QUERY, DOCUMENTS).tolist()
    assert [result["logit"] for result in served] == pytest.approx(expected, abs=1e-4)
    assert plain != pytest.approx(expected, abs=1e-3)
