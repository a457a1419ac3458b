"""Every command of the walk-through in docs/experiments.md, with fewer requests."""

import json
from pathlib import Path

from benchmarks.experiment_walk import commands, walk

from tests.integration.fleet import PASSAGES

QUERIES = ("how do vaccines work", "what is the immune system", "diseases of plants", "stock market", "rain weather")


def collection(folder: Path) -> Path:
    """Each query has one relevant passage."""
    (folder / "qrels").mkdir(parents=True)
    passages = enumerate(PASSAGES)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"p{n}", "text": text}) + "\n" for n, text in passages)
    )
    queries = enumerate(QUERIES)
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": text}) + "\n" for n, text in queries)
    )
    rows = "".join(f"q{n}\tp{n}\t1\n" for n in range(len(QUERIES)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def test_the_walk_through_ends_in_a_report(tmp_path: Path) -> None:
    found = walk(collection(tmp_path / "data"), requests=0.2)
    assert [each["command"] for each in found["printed"]] == commands()[1:]
    plan, status = (
        next(each["printed"] for each in found["printed"] if word in each["command"]) for word in ("plan", "status")
    )
    assert "CTR@10" in plan
    assert "size" in status
    report = found["report"]
    assert report["mismatch"] is None
    assert report["assigned_otherwise"] == 0
    arms = report["arms"]
    assert arms["small"]["tiers"] == {"small": 1.0}
    assert arms["large"]["tiers"] == {"large": 1.0}
    assert arms["large"]["requests"] + arms["small"]["requests"] == 300 + 1200
    assert arms["small"]["measures"]["ctr@10"]["value"] > 0
    (verdict,) = report["verdicts"]
    assert verdict["kind"] in ("ship", "stop", "not yet")
