"""Inputs of all contenders: the same model in a format that each can read, and the same texts."""

from pathlib import Path

from benchmarks.contest.shapes import write_ettin
from safetensors import safe_open

from rankfleet.bench.sample_texts import SampleRequest, pair_lengths, training_texts, write_request
from rankfleet.core.errors import RankfleetError
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.checkpoint.storage import write_float32
from rankfleet.engine.checkpoint.tensors import SCALE_SUFFIX
from rankfleet.engine.text.tokenizer import PairTokenizer

VOCABULARY = 16384  # of the tokenizer trained for a random model; its texts hold about as many distinct pieces
TRAINING_TEXTS = 4000


def random_model(shape: str, folder: Path) -> tuple[Checkpoint, Path]:
    """A random model of a published size: its checkpoint for this engine, its folder for the peers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        written = write_ettin(folder, shape, training_texts(TRAINING_TEXTS), VOCABULARY)
    except ImportError as error:
        raise RankfleetError("--shape needs more packages:  pip install 'rankfleet[bench]'") from error
    return Checkpoint(written), written


def named_model(model: str, folder: Path) -> tuple[Checkpoint, Path]:
    """The checkpoint of that name for this engine, and a writable folder with the same model in float32 for the
    peers."""
    checkpoint = find_checkpoint(model)
    if holds_int8(checkpoint):
        write_float32(checkpoint, folder)
    else:
        folder.mkdir()
        for path in checkpoint.folder.iterdir():  # large files need no copy
            (folder / path.name).symlink_to(path.resolve())
    return checkpoint, folder


def holds_int8(checkpoint: Checkpoint) -> bool:
    """Whether matrices are stored in this project's int8 format, which peers cannot read."""
    for path in checkpoint.folder.rglob("*.safetensors"):
        with safe_open(path, "np") as tensors:
            if any(name.endswith(SCALE_SUFFIX) for name in tensors.keys()):  # noqa: SIM118 (not a mapping)
                return True
    return False


def write_requests(number: int, pairs: int, mean_tokens: int, tokenizer: PairTokenizer) -> list[SampleRequest]:
    """`number` requests of the same lengths, each with texts of its own."""

    def count(text: str) -> int:
        return len(tokenizer.encode([text])[0])

    special = tokenizer.template.tokens
    return [
        write_request(pair_lengths(pairs, mean_tokens, tokenizer.max_tokens, seed), count, special, seed)
        for seed in range(number)
    ]


def lengths_of(request: SampleRequest, tokenizer: PairTokenizer) -> list[int]:
    """Tokens of each pair as scored, special tokens included."""
    query, *documents = tokenizer.encode([request.query, *request.documents])
    return [int(n) for n in tokenizer.pair_lengths(tokenizer.layout(query, documents))]
