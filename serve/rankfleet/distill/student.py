"""Students: a reranker that is trained on, or an encoder with a new Ettin head; whole, or cut to fewer layers, inner
units and words."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.storage import write_float32
from rankfleet.engine.checkpoint.tensors import weight_files
from rankfleet.engine.models.families import family_of
from rankfleet.engine.runtime.loading import max_pair_tokens

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

MAX_TOKENS = 512  # of a pair that a student with a vocabulary of its own scores
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Cuts:
    """What a student keeps of its checkpoint; None for all. layers: from the first; inner: units of each MLP, the
    heaviest; vocabulary: tokens of a WordPiece vocabulary, the most frequent in the training text."""

    layers: int | None = None
    inner: int | None = None
    vocabulary: int | None = None


def is_reranker(source: Checkpoint) -> bool:
    """Whether the checkpoint scores pairs already: a chain of modules with a head, or a classifier with one label."""
    return source.is_cross_encoder or is_classifier(source)


def is_classifier(source: Checkpoint) -> bool:
    named = (source.config.architectures or [""])[0]
    return bool(named.endswith("ForSequenceClassification") and source.config.num_labels == 1 and not source.head())


def student_limit(source: Checkpoint) -> int:
    """Tokens of the longest pair that the student will take."""
    limit = max_pair_tokens(source)
    return limit if is_reranker(source) else min(MAX_TOKENS, limit)


def check_student(source: Checkpoint, cuts: Cuts) -> None:
    """Raises CheckpointError for a checkpoint that cannot be trained on, or not cut like this: before any work."""
    weight_files(source.folder)  # Transformers would read pickled weights too
    family, name = family_of(source.config), source.folder
    if family.causal:
        raise CheckpointError(f"{name} is a language model; a student is an encoder, such as BERT or ModernBERT")
    for option, wanted, has in (
        ("--layers", cuts.layers, source.config.num_hidden_layers),
        ("--inner", cuts.inner, source.config.intermediate_size),
    ):
        if wanted is not None and wanted > has:
            raise CheckpointError(f"{option} {wanted}: {name} has {has}")
        if wanted is not None and is_classifier(source):
            raise CheckpointError(f"{option}: {name} is a classifier, which is trained on whole; cut an encoder")
    if cuts.inner is not None and family.position_offset is None:
        raise CheckpointError(
            f"--inner: the MLPs of a {source.config.model_type} have gates and are not cut; leave it out"
        )
    if cuts.vocabulary is None:
        return
    if is_reranker(source):
        raise CheckpointError(f"--vocabulary: {name} is a reranker already, and keeps its vocabulary; leave it out")
    tokenizer = source.tokenizer.backend_tokenizer
    kind = type(tokenizer.model).__name__
    if kind != "WordPiece":
        raise CheckpointError(f"--vocabulary cuts WordPiece vocabularies; that of {name} is {kind}: leave it out")
    if missing := [token for token in SPECIAL if tokenizer.token_to_id(token) is None]:
        raise CheckpointError(f"--vocabulary: {name} has no token {', '.join(missing)}; leave it out")


def build_student(source: Checkpoint, cuts: Cuts, texts: Iterable[str], seed: int) -> "CrossEncoder":
    """The student before training, in float32. texts: of the training data, for the vocabulary; seed: for a new
    head."""
    torch.manual_seed(seed)
    if is_reranker(source):
        return student_of_reranker(source, cuts.layers, cuts.inner)
    return student_of_encoder(source.folder, cuts.layers, cuts.vocabulary, texts, cuts.inner)


def pick_vocabulary(tokenizer: Tokenizer, texts: Iterable[str], size: int) -> list[str]:
    """The `size` WordPiece tokens to keep, in their old order.

    Special tokens come first, then every ASCII character and its continuation, so that any ASCII word can still be
    spelled, then the tokens most frequent in `texts`.
    """
    vocabulary = tokenizer.get_vocab()
    counts: Counter[str] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        counts.update(encoding.tokens)
    characters = [piece for code in range(33, 127) for piece in (chr(code), f"##{chr(code)}")]
    by_frequency = [token for token, _ in counts.most_common()]
    # Where texts use fewer tokens than `size`, the rest comes from BERT's list, which has frequent whole words first.
    the_rest = sorted((t for t in vocabulary if not t.startswith("[unused")), key=vocabulary.__getitem__)
    ranked = dict.fromkeys(t for t in (*SPECIAL, *characters, *by_frequency, *the_rest) if t in vocabulary)
    return sorted(list(ranked)[:size], key=vocabulary.__getitem__)


def cut_vocabulary(tokenizer: Tokenizer, kept: list[str]) -> Tokenizer:
    """The same WordPiece tokenizer with only the tokens `kept`, ids renumbered in that order."""
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    new_ids = {token: i for i, token in enumerate(kept)}
    spec["model"]["vocab"] = new_ids
    spec["added_tokens"] = [added | {"id": new_ids[added["content"]]} for added in spec["added_tokens"]]
    post = spec["post_processor"]
    if post["type"] == "BertProcessing":
        post["sep"][1], post["cls"][1] = new_ids[post["sep"][0]], new_ids[post["cls"][0]]
    for name, special in post.get("special_tokens", {}).items():
        special["ids"] = [new_ids[name]]
    return Tokenizer.from_str(json.dumps(spec))


def student_of_encoder(
    source: Path,
    layers: int | None = None,
    vocabulary_size: int | None = None,
    texts: Iterable[str] = (),
    inner: int | None = None,
) -> "CrossEncoder":
    """The encoder at `source` with a new Ettin head (CLS → Dense → GELU → LayerNorm → Dense to one logit).

    layers: keep only the first N, all by default; inner: keep the heaviest N units of each MLP; vocabulary_size: reduce
    a WordPiece vocabulary to the tokens most frequent in `texts`. Raises CheckpointError for an encoder whose layers
    are not known.
    """
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)  # one epoch on scores without label noise needs no dropout
    encoder = AutoModel.from_pretrained(
        source, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if vocabulary_size is not None:
        full = tokenizer.backend_tokenizer
        full.no_truncation()
        full.no_padding()
        kept = pick_vocabulary(full, texts, vocabulary_size)
        old_ids = [full.token_to_id(token) for token in kept]
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=cut_vocabulary(full, kept),
            model_max_length=MAX_TOKENS,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL},
        )
        words = encoder.get_input_embeddings().weight.detach()[old_ids]
        encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(words.clone(), freeze=False))
        encoder.config.vocab_size = len(kept)
        encoder.config.pad_token_id = tokenizer.pad_token_id
    keep_layers(encoder, layers)
    keep_inner(encoder, inner)

    hidden = encoder.config.hidden_size
    with tempfile.TemporaryDirectory() as folder:  # Transformer can only be built from a folder
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=min(MAX_TOKENS, encoder.config.max_position_embeddings))
    return CrossEncoder(
        modules=[
            transformer,
            Pooling(hidden, pooling_mode="cls"),
            Dense(hidden, hidden, bias=False, activation_function=torch.nn.GELU()),
            LayerNorm(hidden),
            Dense(hidden, 1, bias=True, activation_function=torch.nn.Identity(), module_output_name="scores"),
        ],
        num_labels=1,
        activation_fn=torch.nn.Identity(),
    )


def student_of_reranker(source: Checkpoint, layers: int | None = None, inner: int | None = None) -> "CrossEncoder":
    """The first `layers` layers of a trained reranker with its head, and the `inner` heaviest units of each MLP."""
    from sentence_transformers import CrossEncoder

    with tempfile.TemporaryDirectory() as folder:  # Sentence Transformers cannot read int8 storage
        write_float32(source, Path(folder) / "plain")
        student = CrossEncoder(
            str(Path(folder) / "plain"), activation_fn=torch.nn.Identity(), model_kwargs={"dtype": torch.float32}
        )
    keep_layers(student[0].model, layers)
    keep_inner(student[0].model, inner)
    return student


def keep_layers(encoder: Any, layers: int | None) -> None:
    """Drop all but the first `layers` layers, in place. Raises CheckpointError where that is impossible."""
    if layers is None:
        return
    home = encoder.encoder if hasattr(encoder, "encoder") else encoder
    name = next((n for n in ("layer", "layers") if hasattr(home, n)), None)
    if name is None:
        raise CheckpointError(f"the layers of a {type(encoder).__name__} cannot be counted; use a BERT or ModernBERT")
    stack = getattr(home, name)
    if not 1 <= layers <= len(stack):
        raise CheckpointError(f"--layers {layers}: the student has {len(stack)} layers")
    setattr(home, name, stack[:layers])
    encoder.config.num_hidden_layers = layers
    if getattr(encoder.config, "layer_types", None):
        encoder.config.layer_types = encoder.config.layer_types[:layers]


def keep_inner(encoder: Any, inner: int | None) -> None:
    """Drop all but the `inner` heaviest units of each MLP, in place.

    A unit's weight is the norm of its input weights times that of its output weights. Raises CheckpointError for
    encoders that are not BERT-shaped.
    """
    if inner is None:
        return
    if not hasattr(encoder, "encoder") or not 1 <= inner <= encoder.config.intermediate_size:
        raise CheckpointError(f"--inner {inner}: needs a BERT-shaped student with at least that many inner units")
    for layer in encoder.encoder.layer:
        up, down = layer.intermediate.dense, layer.output.dense
        unit_weight = up.weight.norm(dim=1) * down.weight.norm(dim=0)
        kept = unit_weight.topk(inner).indices.sort().values
        up.weight = torch.nn.Parameter(up.weight.detach()[kept].clone())
        up.bias = torch.nn.Parameter(up.bias.detach()[kept].clone())
        down.weight = torch.nn.Parameter(down.weight.detach()[:, kept].clone())
        up.out_features = down.in_features = inner
    encoder.config.intermediate_size = inner
