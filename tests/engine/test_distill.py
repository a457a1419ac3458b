"""`rankfleet distill` at tiny size: every source, the same file to the byte, killed runs, refusals."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

import rankfleet.cli.distill
import rankfleet.cli.evaluate  # noqa: F401  (a second verb, without which the first is not named)
from rankfleet.cli import app
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.core.fleet_file import read_config
from rankfleet.distill.job import Job
from rankfleet.distill.run import distill
from rankfleet.distill.training import has_fast_bfloat16, last_checkpoint
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from tests.engine.checkpoints import ettin, small_bert, word_piece

TOPICS = ["wing", "headache", "vaccine", "library", "river", "engine", "protein", "castle"]
VERBS = ["heats", "cures", "moves", "explains", "needs", "stores"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder of two layers without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=900, max_position_embeddings=128, **sizes)).save_pretrained(folder)
    word_piece(folder, 128)
    return folder


@pytest.fixture(scope="module")
def bpe_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBERT encoder, whose vocabulary is byte-level BPE."""
    folder = tmp_path_factory.mktemp("bpe")
    ettin(folder, (64, 1, 1, 96), 128)
    return folder / "encoder"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Scored pairs: documents about the first topics score higher."""
    draw, file = random.Random(1), tmp_path / "pairs.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as sink:
        for i in range(40):
            for topic in draw.sample(TOPICS, 5):
                score = round((3.0 if topic in TOPICS[:4] else -3.0) + draw.random(), 2)
                document = f"the {topic} {draw.choice(VERBS)}"
                query = f"{VERBS[i % len(VERBS)]} {i}"
                sink.write(json.dumps({"query": query, "document": document, "score": score}) + "\n")
    return file


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Documents with a title, of three sentences each."""
    draw, file = random.Random(2), tmp_path / "corpus.jsonl"
    with file.open("w") as sink:
        for i in range(60):
            words = [draw.choice(TOPICS + VERBS) for _ in range(45)]
            text = ". ".join(" ".join(words[start : start + 15]) for start in (0, 15, 30)) + "."
            sink.write(json.dumps({"_id": f"d{i}", "title": f"{words[0]} {words[1]} {i}", "text": text}) + "\n")
    return file


def quiet(phase: str, done: int, total: int) -> None: ...


def run(job: Job, show: Callable[[str, int, int], Any] = quiet) -> dict[str, Any]:
    return distill(job, find_checkpoint(job.student), None, show)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FAST: dict[str, Any] = {"batch": 8, "learning_rate": 3e-3, "epochs": 2.0, "held_out": 0.2, "patience": 20}


def test_the_same_seed_gives_the_same_files_to_the_byte_and_another_seed_others(
    encoder: Path, pairs: Path, tmp_path: Path
) -> None:
    made = {}
    for name, seed in (("a", 12), ("b", 12), ("c", 13)):
        torch.rand(7)  # whatever was drawn before
        (tmp_path / name).mkdir()
        run(Job(str(encoder), tmp_path / name / "tier", data=pairs, layers=1, vocabulary=300, seed=seed, **FAST))
        made[name] = files_of(tmp_path / name / "tier")
    assert {"model.safetensors", "README.md", "training.png", "fleet.yaml", "tokenizer.json"} <= set(made["a"])
    same = [name for name in made["a"] if name != "fleet.yaml"]  # which names its own folder
    assert [name for name in same if made["a"][name] != made["b"][name]] == []
    assert made["a"]["model.safetensors"] != made["c"]["model.safetensors"]


class Killed(Exception):
    """Stands in for whatever ends a process."""


@pytest.mark.parametrize("step", [1, 12, 25])
def test_a_killed_run_goes_on_and_ends_with_the_same_files(
    step: int, encoder: Path, pairs: Path, tmp_path: Path
) -> None:
    whole = Job(str(encoder), tmp_path / "whole" / "tier", data=pairs, **FAST)
    killed = Job(str(encoder), tmp_path / "killed" / "tier", data=pairs, **FAST)
    run(whole)

    def kill(phase: str, done: int, total: int) -> None:
        if phase.startswith("training") and done == step:
            raise Killed

    with pytest.raises(Killed):
        run(killed, kill)
    (killed.out / "work/checkpoints").mkdir(exist_ok=True)
    (killed.out / "work/checkpoints/checkpoint-9999").mkdir()  # killed while it wrote one
    steps: list[int] = []
    run(killed, lambda phase, done, total: steps.append(done) if phase.startswith("training") else None)
    assert steps[0] > 1 or step < 3, "it began anew"
    expected, found = files_of(whole.out), files_of(killed.out)
    assert [name for name in expected if name != "fleet.yaml" and expected[name] != found.get(name)] == []
    assert not (killed.out / "work").exists()


def test_a_run_is_not_resumed_with_other_data_student_or_settings(encoder: Path, pairs: Path, tmp_path: Path) -> None:
    def kill(phase: str, done: int, total: int) -> None:
        if phase.startswith("training"):
            raise Killed

    job = Job(str(encoder), tmp_path / "tier", data=pairs, **FAST)
    with pytest.raises(Killed):
        run(job, kill)
    other = tmp_path / "others.jsonl"
    other.write_bytes(gzip.decompress(pairs.read_bytes()).replace(b"3.", b"4."))
    for change, key in (
        ({"data": other}, "data.data"),
        ({"seed": 3}, "settings.seed"),
        ({"layers": 1}, "settings.layers"),
    ):
        with pytest.raises(InvalidRequest, match=key):
            run(Job(**{**vars(job), **change}))
    student = small_bert(tmp_path / "classifier")
    with pytest.raises(InvalidRequest, match="student: "):
        run(Job(**{**vars(job), "student": str(student)}))
    assert run(job)["held_back"]["queries"] > 0


def test_a_student_learns_its_teacher_and_the_engine_scores_what_the_checkpoint_holds(
    encoder: Path, pairs: Path, tmp_path: Path
) -> None:
    figures = run(Job(str(encoder), tmp_path / "tier", data=pairs, int8=True, **FAST))
    held_back = figures["held_back"]
    assert held_back["best"] > held_back["start"]
    losses = [loss for _, loss in figures["over_steps"]["loss"]]
    assert losses[-1] < losses[0]
    config = read_config(tmp_path / "tier/fleet.yaml")
    reranker = Reranker.load(find_checkpoint(config.tiers["tier"].model), "float32")
    scores = reranker.score("heats 0", ["the wing heats", "the protein heats"])
    assert scores[0] > scores[1]
    card = (tmp_path / "tier/README.md").read_text()
    assert f"{held_back['start']:.4f} before training and is {held_back['best']:.4f}" in card


def test_training_stops_early_and_keeps_the_best(encoder: Path, pairs: Path, tmp_path: Path) -> None:
    figures = run(Job(str(encoder), tmp_path / "tier", data=pairs, batch=4, learning_rate=1e-9, patience=2))
    assert figures["stopped_early"]
    measured = figures["over_steps"]["ndcg@10"]
    assert len(measured) == 4  # before training, the best, and two that are no better
    assert figures["held_back"]["best_step"] == measured[1][0]


def test_without_held_back_queries_the_last_checkpoint_is_kept(encoder: Path, pairs: Path, tmp_path: Path) -> None:
    figures = run(Job(str(encoder), tmp_path / "tier", data=pairs, batch=32, held_out=0.0))
    assert figures["held_back"] is None
    assert figures["steps"] == 7  # 200 pairs
    assert "nothing says how well it ranks" in (tmp_path / "tier/README.md").read_text()


def test_a_classifier_is_trained_on_with_its_own_head(pairs: Path, tmp_path: Path) -> None:
    source = small_bert(tmp_path / "classifier")
    run(Job(str(source), tmp_path / "tier", data=pairs, batch=32, learning_rate=1e-9))
    before, after = (Reranker.load(Checkpoint(f), "float32") for f in (source, tmp_path / "tier"))
    texts = ["the wing heats the castle", "a headache"]
    np.testing.assert_allclose(after.score("wing", texts), before.score("wing", texts), atol=1e-4)


def test_documents_alone_are_enough_with_a_teacher(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("tiers: {best: {model: demo/small, quality: 0.3}}\ngroups: {g: {tiers: [best], dtype: float32}}\n")
    command = ["distill", "--student", str(encoder), "--teacher", "best", "--config", str(fleet)]
    command += ["--documents", str(corpus)]
    command += ["--out", str(tmp_path / "tier"), "--questions", "30", "--top-k", "20", "--batch", "32"]
    done = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "figures.json")])
    assert done.exit_code == 0, done.output
    assert f"rankfleet evaluate --config {tmp_path / 'tier'}/fleet.yaml" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["data"]["documents"] == "60 of corpus.jsonl"
    assert figures["data"]["queries made of titles and first sentences"] == 30
    assert figures["teacher"] == "best"
    assert 0 < figures["held_back"]["best"] <= 1


def test_loss_that_is_not_finite_stops_the_run(encoder: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(RankfleetError, match="training diverged"):
        run(Job(str(encoder), tmp_path / "tier", data=pairs, batch=8, learning_rate=1e18))
    assert not (tmp_path / "tier/model.safetensors").exists()


PAIR = '{"query": "a", "document": "x", "score": 1}\n'


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (PAIR + '{"query": "a", "document": "y", "score": NaN}', (), "pairs.jsonl:2: not JSON (NaN"),
        (PAIR + PAIR, (), "all 2 scores are 1"),
        ("", (), "holds no pairs"),
        (PAIR + PAIR.replace("1", "2"), (), "too few queries: of 1, 1 held back"),
        (PAIR + PAIR.replace("1", "2").replace('"a"', '"b"'), (), "none of 1 held-back queries has two documents"),
        (PAIR + PAIR.replace("1", "2"), ("--teacher", "demo/small"), "--teacher would do nothing"),
        (PAIR.replace("1", "null"), (), "name the reranker that scores them"),
        (PAIR + PAIR.replace("1", "2"), ("--config", "demo"), "--config would do nothing"),
        (PAIR + PAIR.replace("1", "2"), ("--layers", "3"), "--layers 3: ENCODER has 2"),
        (PAIR + PAIR.replace("1", "2"), ("--max-tokens", "129"), "takes pairs of 128 tokens"),
    ],
)
def test_what_is_refused_leaves_no_folder(
    text: str, options: tuple[str, ...], message: str, encoder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    command = ["distill", "--student", str(encoder), "--data", str(file), "--out", str(tmp_path / "tier"), *options]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, RankfleetError), done.output
    assert message.replace("ENCODER", str(encoder)) in str(done.exception)
    assert not (tmp_path / "tier").exists()


@pytest.mark.parametrize(
    ("student", "options", "message"),
    [
        ("bpe", ("--vocabulary", "300"), "is BPE: leave it out"),
        ("bpe", ("--inner", "32"), "have gates and are not cut"),
        ("demo/small", ("--vocabulary", "300"), "is a reranker already"),
    ],
)
def test_cuts_that_the_student_does_not_allow_are_refused(
    student: str, options: tuple[str, ...], message: str, bpe_encoder: Path, pairs: Path, tmp_path: Path
) -> None:
    start = str(bpe_encoder) if student == "bpe" else student
    command = ["distill", "--student", start, "--data", str(pairs), "--out", str(tmp_path / "tier"), *options]
    done = CliRunner().invoke(app, command)
    assert message in str(done.exception)
    assert not (tmp_path / "tier").exists()


def test_the_last_whole_checkpoint_is_taken_and_half_of_one_removed(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (5, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 20):
        (tmp_path / f"checkpoint-{step}/trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert not (tmp_path / "checkpoint-100").exists()


@pytest.mark.parametrize(
    ("flags", "vendor", "fast"),
    [
        ({"avx512f"}, "AuthenticAMD", False),
        ({"avx512_bf16"}, "AuthenticAMD", True),
        ({"avx512_bf16"}, "GenuineIntel", False),
        ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", True),
    ],
)
def test_which_processors_train_in_bfloat16(flags: set[str], vendor: str, fast: bool) -> None:
    assert has_fast_bfloat16(flags, vendor) == fast
