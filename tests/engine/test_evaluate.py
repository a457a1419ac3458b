"""`rankfleet evaluate` from a data set on disk to a table that a fleet reads."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankfleet.cli import app, config, evaluate  # noqa: F401  (registers the verbs)
from rankfleet.core.fleet_file import parse_config
from rankfleet.estimates.quality import fleet_quality

ANIMALS = ("cat", "dog", "horse", "sheep", "goat", "hen", "duck", "goose", "pig", "cow", "fox", "wolf")


def write_beir(folder: Path) -> Path:
    """24 questions of which each has one answer among 24 sentences that share its words."""
    documents = [f"The {a} sleeps in the barn." for a in ANIMALS] + [f"In winter the {a} eats hay." for a in ANIMALS]
    queries = [f"where does the {a} sleep, in a barn" for a in ANIMALS] + [f"what does the {a} eat" for a in ANIMALS]
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [f'{{"_id": "{name[0]}{i}", "text": "{text}"}}\n' for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "qrels/test.tsv").write_text("".join(f"q{i}\tc{i}\t1\n" for i in range(len(queries))))
    return folder


def test_a_data_set_becomes_a_table_with_fused_figures(tmp_path: Path) -> None:
    data, table, figures = write_beir(tmp_path / "farm"), tmp_path / "quality.json", tmp_path / "figures.json"
    asked = ["evaluate", "--data", str(data), "--tiers", "small,large", "--dtype", "float32", "--fit-fusion"]
    result = CliRunner().invoke(app, [*asked, "--table", str(table), "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert "farm: fused with the candidates' order" in result.output
    written = json.loads(figures.read_text())
    assert written["queries"] == 24
    assert set(written["tiers"]) == {"small", "large"}
    assert set(written["fused"]) == {"small", "large", "small>large 20"}
    assert set(written["weights"]) == {"small", "large"}
    compared = set(written["compared"]["small"]) | set(written["compared"]["large"])
    assert compared == {"interval", "less_retriever", "less_best"}
    assert len(written["by_query"]["order"]["small>large 20"]) == 24
    assert written["data_sets"] == json.loads(table.read_text())["data_sets"]
    tiers = {name: {"model": f"demo/{name}", "quality": 0.1} for name in ("small", "large")}
    groups = {"all": {"tiers": ["small", "large"]}}
    quality = fleet_quality(parse_config({"tiers": tiers, "groups": groups, "quality": {"table": str(table)}}))
    assert quality.ranked.tiers["large"] == pytest.approx(written["fused"]["large"]["order"]["ndcg@10"], abs=1e-4)
    assert quality.weights == written["weights"]


def test_a_data_set_in_the_layout_of_trec_with_a_run(tmp_path: Path) -> None:
    (tmp_path / "docs.tsv").write_text("d1\tcats purr\nd2\tdogs bark\nd3\tbirds sing\n")
    (tmp_path / "topics.tsv").write_text("301\twhat do cats do\n")
    (tmp_path / "qrels.txt").write_text("301 0 d1 1.0\n301 0 gone 0\n301 0 lost 1\n")
    (tmp_path / "run.txt").write_text("301 Q0 d2 1 2.5 mine\n301 Q0 d1 2 1.5 mine\n")
    asked = ["evaluate", "--data", str(tmp_path), "--run", str(tmp_path / "run.txt"), "--tiers", "small"]
    result = CliRunner().invoke(app, [*asked, "--dtype", "float32", "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    assert "counted in the ideal ranking: 1 of 2" in result.output
    written = json.loads((tmp_path / "figures.json").read_text())
    # The one document that is there is second of two relevant ones at best: 1 ÷ (1 + 1/log2(3)), or 1/log2(3) of that
    assert written["retriever"] == {
        **{"name": "run", "ndcg@10": 0.3869, "mrr@10": 0.5, "recall@10": 0.5, "recall": 0.5}
    }
    assert written["tiers"]["small"]["ndcg@10"] == 0.6131
    assert written["notes"] == [
        "relevant judgements of documents that are not in the corpus, counted in the ideal ranking: 1 of 2"
    ]


def test_each_data_set_has_a_run_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--data", "a", "--data", "b", "--run", "c"])
    assert str(result.exception).startswith("--run: 1 run files for 2 data sets; give one for each")
