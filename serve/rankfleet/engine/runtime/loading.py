"""The parts of a checkpoint as its family defines them: tokenizer, encoder and head."""

from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.attention.varlen import attention_for
from rankfleet.engine.checkpoint.files import Checkpoint, HeadModule
from rankfleet.engine.checkpoint.weights import Weights, naming
from rankfleet.engine.models.families import family_of
from rankfleet.engine.models.heads import Head, chained_head, check_classifier, logit_head
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.native.encoder import NativeEncoder
from rankfleet.engine.native.library import library
from rankfleet.engine.text.pair_template import PairTemplate
from rankfleet.engine.text.tokenizer import PairTokenizer

UNBOUNDED = 10**9  # tokenizer configs write "no limit" as numbers above this


def load_tokenizer(checkpoint: Checkpoint, max_tokens: int | None = None) -> PairTokenizer:
    """The tokenizer of a checkpoint's pairs. `max_tokens` can lower the checkpoint's own limit, not raise it.

    Raises CheckpointError.
    """
    with naming(checkpoint.folder):
        limit = max_pair_tokens(checkpoint)
        tokenizer = checkpoint.tokenizer.backend_tokenizer
        return PairTokenizer(tokenizer, min(limit, max_tokens or limit), pair_template(checkpoint))


def pair_template(checkpoint: Checkpoint) -> PairTemplate:
    """The tokens around query and document. Raises CheckpointError."""
    return family_of(checkpoint.config).prompt(checkpoint)


def max_pair_tokens(checkpoint: Checkpoint) -> int:
    """Tokens of the longest pair that the checkpoint takes, special tokens included.

    As in Sentence Transformers: the limit in its own settings, else the smaller one of the tokenizer's and the model's
    configs. A table of positions is a limit in any case. Rotary positions have none, so that with them the settings may
    exceed the model's config.
    """
    config, settings = checkpoint.config, checkpoint.settings
    family = family_of(config)
    limit = (
        (settings.get("processing_kwargs") or {}).get("text", {}).get("max_length")
        or checkpoint.tokenizer_options.get("model_max_length")
        or settings.get("max_seq_length")
    )
    if limit and limit < UNBOUNDED and family.position_offset is None:
        return int(limit)
    if limit is None:
        saved = checkpoint.read_optional("tokenizer_config.json")
        limit = saved.get("model_max_length") or saved.get("max_len") or UNBOUNDED
    offset = family.position_offset(config) if family.position_offset else 0
    return int(min(limit, config.max_position_embeddings - offset))


def build_encoder(config: Any, weights: Weights, attention: Attention | None = None) -> TorchEncoder:
    """The encoder in PyTorch's operations, on the device and in the precision of the weights.

    `attention`: by default the best back-end that is installed.
    """
    family = family_of(config)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = attention or attention_for(weights.device, weights.dtype, head_width)
    return family.encoder(config, weights.under(family.prefix), attention)


def build_native_encoder(config: Any, weights: Weights, dtype: str, max_pair: int) -> NativeEncoder | None:
    """The same encoder run by the compiled kernels; None if they do not run here, or cannot compute it.

    `max_pair`: tokens of the longest pair.
    """
    layout, kernels = family_of(config).native, library()
    if layout is None or kernels is None or dtype not in kernels.dtypes:
        return None
    encoder = build_encoder(config, weights.to(torch.float32, torch.device("cpu")))
    return NativeEncoder(encoder, layout, dtype, kernels, max_pair) if layout.fits(encoder) else None


def build_head(modules: list[HeadModule], config: Any, weights: Weights) -> Head:
    """The head of a checkpoint of any format, on the device and in the precision of the weights.

    `modules`: from `Checkpoint.head`. `weights`: of the encoder's folder.

    Raises CheckpointError for a head that does not go with the encoder.
    """
    family = family_of(config)
    with naming(weights.folder):
        by_logit = [module.kind for module in modules] == ["LogitScore"]
        if by_logit != family.causal:
            raise CheckpointError(
                f"a {config.model_type} reranker is read with{'' if family.causal else 'out'} LogitScore"
            )
        if by_logit:
            return logit_head(modules[0].config, weights)
        if modules:
            return chained_head(modules, config.hidden_size, weights.dtype, weights.device)
        check_classifier(config, weights)
        if family.head is None:
            raise CheckpointError(f"the classifier of a {config.model_type} model is not supported")
        return family.head(config, weights)
