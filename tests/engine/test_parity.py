"""Scores equal those of Sentence Transformers' CrossEncoder on the same checkpoint."""

from pathlib import Path

import pytest

from tests.engine import checkpoints
from tests.engine.parity import QUERY, assert_equal_scores, documents


@pytest.mark.parametrize("shape", ["17m", "32m", "68m", "150m"])
def test_ettin_shapes_score_as_in_sentence_transformers(shape: str, tmp_path: Path) -> None:
    folder = checkpoints.ettin(tmp_path, shape)
    assert_equal_scores(folder, QUERY, documents([1, 3, 3, 3, 12, 25, 40, 80, 120, 120]))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["400m", "1b"])
def test_large_ettin_shapes_score_as_in_sentence_transformers(shape: str, tmp_path: Path) -> None:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) / 2**20
    needed = {"400m": 8, "1b": 16}[shape]
    if available < needed:
        pytest.skip(f"needs {needed} GiB of memory, {available:.0f} are free")
    folder = checkpoints.ettin(tmp_path, shape)
    # Over 28 layers of float32 each side drifts from float64 by about 1e-4 of its own.
    assert_equal_scores(folder, QUERY, documents([1, 20, 60]), atol=3e-4)


def test_lengths_from_one_token_to_8192_score_as_in_sentence_transformers(tmp_path: Path) -> None:
    folder = checkpoints.ettin(tmp_path, "17m")
    # Around the window (64 to each side) every length counts; the last is cut at 8192 tokens.
    texts = ["a", *documents([2, 8, 14, 15, 16, 17, 18, 33, 250, 1000]), "a b " * 5000]
    assert_equal_scores(folder, QUERY, texts, batch_size=1)


def test_a_query_longer_than_the_document_is_truncated_alike(tmp_path: Path) -> None:
    folder = checkpoints.ettin(tmp_path, "17m", max_length=96)
    assert_equal_scores(folder, documents([90])[0], documents([2, 10, 30, 200]), batch_size=1)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_classifiers_score_as_in_sentence_transformers(pooling: str, tmp_path: Path) -> None:
    folder = checkpoints.modernbert_classifier(tmp_path, pooling)
    assert_equal_scores(folder, QUERY, documents([1, 5, 30, 30, 90]))


def test_bert_classifiers_score_as_in_sentence_transformers(tmp_path: Path) -> None:
    folder = checkpoints.bert_classifier(tmp_path)
    assert_equal_scores(folder, QUERY, documents([1, 5, 30, 30, 90, 900]))


def test_xlm_roberta_classifiers_score_as_in_sentence_transformers(tmp_path: Path) -> None:
    folder = checkpoints.xlm_roberta_classifier(tmp_path)
    assert_equal_scores(folder, QUERY, documents([1, 5, 30, 30, 90, 900]))
