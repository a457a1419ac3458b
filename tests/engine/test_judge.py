"""`rankfleet evaluate --judge` from a folder of text files to a page."""

import json
from pathlib import Path

from typer.testing import CliRunner

from rankfleet.cli import app, config, evaluate, recommend  # noqa: F401  (registers the verbs)
from tests.engine.checkpoints import small_bert


def test_ten_queries_and_a_folder_of_texts_are_enough(tmp_path: Path) -> None:
    animals = ("cat", "dog", "horse", "sheep", "goat", "hen", "duck", "goose", "pig", "cow")
    for animal in animals:
        (tmp_path / f"{animal}.txt").write_text(f"The {animal} sleeps in the barn.")
        (tmp_path / f"{animal}_food.txt").write_text(f"In winter the {animal} eats <b>hay</b>.")
    (tmp_path / "queries.txt").write_text("".join(f"what does the {animal} eat in the barn\n" for animal in animals))
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    asked = ["evaluate", "--data", str(tmp_path), "--judge", "large", "--tiers", "small,large", "--dtype", "float32"]
    result = CliRunner().invoke(app, [*asked, "--page", str(page), "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert "agreement with large, 10 queries" in result.output
    written = json.loads(figures.read_text())
    assert (written["retriever"]["name"], set(written["tiers"])) == ("bm25", {"small", "large"})
    assert 0 < written["tiers"]["small"]["ndcg@10"] < 1
    assert (len(written["by_query"]["alone"]["small"]), written["by_query"]["alone"]["large"]) == (10, [1.0] * 10)
    html = page.read_text()
    assert html.count("<h2>") == 10
    assert "&lt;b&gt;hay" in html

    # And from there to a recommendation, which says what ten queries cannot tell.
    asked = ["recommend", "--from", str(figures), "--config", "demo", "--max-loss", "0.2"]
    recommended = CliRunner().invoke(app, [*asked, "--json", str(tmp_path / "recommended.json")])
    assert recommended.exit_code == 0, recommended.output
    chosen = json.loads((tmp_path / "recommended.json").read_text())
    assert (chosen["recommended"], chosen["queries"]) == ("large", 10)
    assert "with the order of large as truth" in chosen["source"]
    assert "10 queries are too few to tell whether something cheaper is enough: small" in chosen["paragraph"]


def test_a_judge_has_to_be_a_tier_or_a_url(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--data", str(tmp_path), "--judge", "huge"])
    assert "there is no tier 'huge'" in str(result.exception)


def test_a_judge_may_be_any_reranker_that_tiers_are_compared_with(tmp_path: Path) -> None:
    for animal in ("cat", "dog", "hen"):
        (tmp_path / f"{animal}.txt").write_text(f"The {animal} sleeps in the barn.")
    (tmp_path / "queries.txt").write_text("where does the cat sleep\nwho sleeps in the barn\n")
    judge = f"sentence-transformers:{small_bert(tmp_path / 'model')},name=mine"
    figures = tmp_path / "figures.json"
    asked = ["evaluate", "--data", str(tmp_path), "--judge", judge, "--tiers", "large", "--dtype", "float32"]
    result = CliRunner().invoke(app, [*asked, "--page", str(tmp_path / "page.html"), "--json", str(figures)])
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text())
    assert (written["judge"], [*written["tiers"]]) == ("mine", ["large"])
    assert written["tiers"]["large"]["overlap@10"] == 1.0  # of three documents
    twice = CliRunner().invoke(app, [*asked[:4], judge.replace("mine", "large")])
    assert "--judge: a tier is called large, too; name another with name=" in str(twice.exception)
