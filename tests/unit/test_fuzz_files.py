"""Whatever is in a file that Rankfleet reads, it is read, or refused by an error that names the file."""

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rankfleet.api.keys import KeyRing
from rankfleet.cli.plan import read_decisions
from rankfleet.core.errors import RankfleetError
from rankfleet.core.fleet_file import read_config
from rankfleet.core.work import Work
from rankfleet.distill.manifest import resume_or_begin
from rankfleet.distill.questions import read_queries
from rankfleet.distill.sources import check_pairs, read_pairs
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import profile_json, read_dtypes, read_profile, read_request_cost
from rankfleet.estimates.quality import fleet_quality
from rankfleet.estimates.request_cost import RequestCost
from rankfleet.recommend.figures import figures_of
from rankfleet.retrieval.bm25 import MANIFEST, Bm25Index
from rankfleet.retrieval.corpus import Document, read_documents
from rankfleet.retrieval.judgements import read_judgements, read_query_texts
from rankfleet.retrieval.runs import read_run
from rankfleet.router.decision_log import line_of
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.simulate.traces import read_counts
from rankfleet.simulate.workload import read_workload
from tests.fuzzing import as_json, changed, damaged, fuzzed
from tests.unit.fakes import fleet, service

DIGEST = "0123456789abcdef" * 4


def replayed(file: Path) -> None:
    for logged in itertools.islice(read_decisions(file), 5):
        logged.differences(logged.replayed())


def table(file: Path) -> None:
    config = fleet(quality={"table": str(file)})
    for ranked in (False, True):
        fleet_quality(config).table(ranked)


def pairs(file: Path) -> None:
    check_pairs(file)
    [*read_pairs(file)]


def index(file: Path) -> None:
    Bm25Index.load(file.parent)


def checkpoint(file: Path) -> None:
    one = Checkpoint(file.parent)
    _ = one.modules, one.description_of_model, one.settings, one.default_prompt, one.precision_costs


def each(read: Callable[[Path], Any]) -> Callable[[Path], list[Any]]:
    """Reads to the end."""
    return lambda file: [*read(file)]


def decision() -> bytes:
    one = service()
    one.fleet.update_latency({name: LatencyModel(5.0, 0.01, 0.0) for name in one.config.tiers})
    snapshot = one.fleet.snapshot(1.0)
    request = PlanRequest({name: Work(2, 40, 800) for name in one.config.tiers}, 1.0, 50.0)
    return line_of("a", request, snapshot, 1.0, plan(request, snapshot, 1.0))


FLEET = {
    "tiers": {"small": {"model": "demo/small", "quality": 0.3, "max_tokens": 64}},
    "groups": {"demo": {"tiers": ["small"], "replicas": {"min": 1, "max": 2}, "cpus": 0.5}},
    "slo_classes": {"fast": {"slo_ms": 20, "when_none_fits": "refuse"}},
    "experiments": {"size": {"arms": {"a": {"model": "small", "weight": 50}}}},
    "tenants": {"shop": {"share": 0.5, "slo_classes": ["fast"]}},
    "search": {"index": "~/index"},
}
PROFILE = profile_json({"small": LatencyModel(1.0, 0.1, 0.0)}, {"dtype": {"small": "float32"}}, RequestCost())
TABLE = {"data_sets": {"a": {"retriever": 0.3, "tiers": {"small": {"10": 0.2, "20": 0.3}, "large": 0.5}}}}
TABLE["data_sets"]["a"] |= {"cascades": {"small>large": {"10": 0.4}}, "fused": {"weights": {"small": 1.0}}}
TREE: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "fleet.yaml": (read_config, FLEET),
    "workload.yaml": (
        read_workload,
        {"classes": {"a": {"slo_ms": 50, "share": 1}}, "candidates": [{"count": 10, "share": 1}], "tokens": 64},
    ),
    "profile.json": (lambda file: (read_profile(file), read_request_cost(file), read_dtypes(file)), PROFILE),
    "table.json": (table, TABLE),
    "decisions.jsonl": (replayed, json.loads(decision())),
    MANIFEST: (index, {"format": 1, "documents": 2, "method": "bm25 (lucene)", "k1": 1.2, "b": 0.75}),
    "documents.jsonl": (each(read_documents), {"_id": "a", "title": "b", "text": "c"}),
    "queries.jsonl": (read_query_texts, {"_id": "a", "text": "c"}),
    "qrels.jsonl": (read_judgements, {"query-id": "a", "corpus-id": "b", "score": 1}),
    "run.jsonl": (read_run, {"query_id": "a", "doc_id": "b", "score": 0.5, "rank": 1}),
    "pairs.jsonl": (pairs, {"query": "a", "document": "b", "score": 0.5}),
    "train.jsonl": (lambda file: read_queries(file, {"b": "c"}), {"query": "a", "positives": ["b"]}),
    "manifest.json": (lambda file: resume_or_begin(file.parent, {"a": {"b": [1]}}), {"format": 1, "a": {"b": [1]}}),
    "modules.json": (checkpoint, [{"idx": 0, "type": "sentence_transformers.models.Transformer", "path": ""}]),
    "config_sentence_transformers.json": (
        checkpoint,
        {"model_type": "CrossEncoder", "prompts": {"a": "b"}, "default_prompt_name": "a"},
    ),
    "precision_costs.json": (checkpoint, {"int8": 0.001}),
}
PLAIN: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "keys.txt": (lambda file: KeyRing(str(file)), f"# ours\n{DIGEST} shop\n".encode()),
    "trace.csv": (read_counts, b"second,requests\n0,3\n1,4\n"),
    "documents.tsv": (each(read_documents), b"id\ttext\ttitle\na\tb\tc\nd\te\tf\n"),
    "qrels.tsv": (read_judgements, b"query-id\tcorpus-id\tscore\na\tb\t1\nc 0 d 2\n"),
    "qrels.txt": (read_judgements, b"1 0 d1 1\n1 0 d2 0\n2 0 d1 2\n"),
    "run.txt": (read_run, b"q Q0 d1 1 0.5 me\nq Q0 d2 2 0.4 me\n"),
    "queries.tsv": (read_query_texts, b"a\tb c\nd\te\n"),
    "documents.tsv.gz": (each(read_documents), gzip.compress(b"id\ttext\na\tb\n", mtime=0)),
}


def check(read: Callable[[Path], Any], file: Path, content: bytes) -> None:
    """Fails unless the content is read, or refused by name."""
    file.write_bytes(content)
    try:
        read(file)
    except RankfleetError as error:
        named = (file.name, str(file.parent), "request ")  # the last: of a decision
        assert any(name in str(error) for name in named)  # noqa: PT017 (most contents are refused)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an index, of which only the manifest is changed."""
    Bm25Index.build([Document("a", "a cat"), Document("b", "a dog")]).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [*TREE])
def test_files_of_data(name: str, folder: Path) -> None:
    read, tree = TREE[name]
    content = (yaml.safe_dump if name.endswith("yaml") else json.dumps)(tree).encode()
    read_as_it_is(read, folder / name, content)

    @fuzzed(20)
    @given(st.one_of(changed(tree).map(as_json), damaged(content)))
    def ask(content: bytes) -> None:
        check(read, folder / name, content)

    ask()


@pytest.mark.parametrize("name", [*PLAIN])
def test_files_of_lines(name: str, tmp_path: Path) -> None:
    read, content = PLAIN[name]
    if name != "qrels.tsv":
        read_as_it_is(read, tmp_path / name, content)

    @fuzzed(20)
    @given(damaged(content))
    def ask(content: bytes) -> None:
        check(read, tmp_path / name, content)

    ask()


def read_as_it_is(read: Callable[[Path], Any], file: Path, content: bytes) -> None:
    file.write_bytes(content)
    read(file)


def test_figures(tmp_path: Path) -> None:
    figures = {
        "top_k": 10,
        "by_query": {"queries": ["a"], "alone": [{"stages": [["small", None]], "ndcg@10": [0.5]}], "given": [0.4]},
        "tiers": {"small": {"p50_ms": 1.0}},
    }

    @fuzzed(20)
    @given(st.one_of(changed(figures).map(as_json), damaged(as_json(figures))))
    def ask(content: bytes) -> None:
        check(lambda file: figures_of(file, True), tmp_path / "figures.json", content)

    ask()


def test_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import save

    from rankfleet.engine.checkpoint.tensors import read_tensors

    whole = save({"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.int8), "b.int8_scale": np.ones((2, 1))})

    @fuzzed(20)
    @given(damaged(whole), st.booleans())
    def ask(content: bytes, values: bool) -> None:
        check(lambda file: read_tensors(file.parent, values=values), tmp_path / "model.safetensors", content)

    ask()
