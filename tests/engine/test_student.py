"""Students made of an encoder: what is cut, what is kept, and that the engine scores them as Sentence Transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from rankfleet.core.errors import CheckpointError
from rankfleet.distill.student import Cuts, check_student, student_of_encoder
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from tests.engine.checkpoints import TEXT, word_piece

QUERY, DOCUMENTS = "what heats the boundary layer", [TEXT[0], TEXT[1], "a headache"]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A BERT encoder of two layers without a head."""
    folder = tmp_path / "encoder"
    config = BertConfig(
        vocab_size=900,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)
    word_piece(folder, 512)
    return folder


@pytest.mark.parametrize(("layers", "vocabulary"), [(None, None), (1, None), (1, 200)])
def test_a_student_of_an_encoder_scores_as_in_sentence_transformers(
    encoder: Path, tmp_path: Path, layers: int | None, vocabulary: int | None
) -> None:
    student = student_of_encoder(encoder, layers, vocabulary, TEXT)
    assert student[0].model.config.num_hidden_layers == (layers or 2)
    if vocabulary is not None:
        assert student[0].model.get_input_embeddings().num_embeddings <= vocabulary
    expected = student.predict([(QUERY, document) for document in DOCUMENTS])
    student.save_pretrained(str(tmp_path / "student"))
    scores = Reranker.load(Checkpoint(tmp_path / "student"), dtype="float32").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_pickled_encoder_is_no_source_of_a_student(encoder: Path) -> None:
    torch.save(BertModel.from_pretrained(encoder).state_dict(), encoder / "pytorch_model.bin")
    (encoder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="only safetensors checkpoints are loaded"):
        check_student(Checkpoint(encoder), Cuts())
    with pytest.raises(OSError, match="safetensors"):
        student_of_encoder(encoder)
