"""Whether a checkpoint can be scored, known before its weights are read: from its configs, its tokenizer and the
headers of its weight files. Without Ray, and without a device."""

from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packed import RunAttention
from rankfleet.engine.checkpoint.files import ENCODER_KINDS, Checkpoint
from rankfleet.engine.checkpoint.weights import META, naming, one_line
from rankfleet.engine.models.heads import CAUSAL, head_of
from rankfleet.engine.native.encoder import fits
from rankfleet.engine.runtime.encoders import ENCODERS, TorchEncoder, torch_encoder
from rankfleet.engine.text.tokenizer import PairTokenizer, max_pair_tokens, template_of, tokenizer_options

# What Sentence Transformers saves of the encoder's module, and what of it is read here or has no bearing on scores.
# `query_length` and the like are for texts that are encoded on their own; `unpad_inputs` and `model_kwargs` say how to
# compute.
KNOWN_SETTINGS = {
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
    "unpad_inputs",
    "query_length",
    "document_length",
    "query_expansion",
    "max_seq_length",
    "do_lower_case",
    "model_kwargs",
    "model_args",
    "processor_kwargs",
    "tokenizer_args",
}
# By task: the output of the model that is read.
OUTPUTS = {"feature-extraction": "last_hidden_state", "sequence-classification": "logits", "text-generation": "logits"}


def check_checkpoint(checkpoint: Checkpoint, dtype: str = "auto", max_tokens: int | None = None) -> None:
    """Raises CheckpointError, one sentence with folder and reason, for a checkpoint whose scores would not be those of
    Sentence Transformers, or that cannot be loaded at all. dtype: of the group; max_tokens: of the tier.

    `Scorer.load` asks this first, so that whoever asks beforehand hears the same. Left to it is what needs the weights
    themselves (values that are not finite) or the device.
    """
    with naming(checkpoint.folder):
        try:
            _check(checkpoint, dtype, max_tokens)
        except CheckpointError:
            raise
        except Exception as error:  # the files are somebody else's: what is wrong in them may raise anything
            raise CheckpointError(
                f"{checkpoint.folder} is no checkpoint that can be loaded ({type(error).__name__}: {one_line(error)})"
            ) from error


def _check(checkpoint: Checkpoint, dtype: str, max_tokens: int | None) -> None:
    if (checkpoint.folder / "adapter_config.json").exists():
        raise CheckpointError("it holds an adapter (adapter_config.json); merge it into its base model and save that")
    config = checkpoint.config
    if config.model_type not in ENCODERS:
        known = ", ".join(sorted(ENCODERS))
        raise CheckpointError(f"{checkpoint.folder} is a {config.model_type!r} model; supported are {known}")
    if quantized := getattr(config, "quantization_config", None):
        how = quantized.get("quant_method", "some way") if isinstance(quantized, dict) else type(quantized).__name__
        raise CheckpointError(f"its weights are quantized ({how}), which is not supported")
    kinds = _check_modules(checkpoint)
    _check_settings(checkpoint.settings, kinds)
    encoder = _fitted(checkpoint, dtype)
    _check_tokenizer(checkpoint, kinds, encoder)
    limit = max_pair_tokens(checkpoint)
    PairTokenizer.check_room(template_of(checkpoint), min(limit, max_tokens or limit))


def _check_modules(checkpoint: Checkpoint) -> list[str]:
    """The kinds of module behind the encoder."""
    if not checkpoint.is_cross_encoder:
        return []
    (first, folder), *rest = checkpoint.modules or [("", checkpoint.folder)]
    if first not in ENCODER_KINDS or any(kind in ENCODER_KINDS for kind, _ in rest):
        raise CheckpointError("modules.json has to begin with a Transformer, and to name no other")
    if folder != checkpoint.folder:
        raise CheckpointError(f"its encoder lies in {folder.name}, and has to lie at the root")
    return [kind for kind, _ in rest]


def _check_settings(settings: dict[str, Any], kinds: list[str]) -> None:
    """Of the encoder's module: Sentence Transformers applies them, so they are applied here or refused."""
    if not settings and not kinds:
        return

    def refuse(name: str, value: object) -> CheckpointError:
        return CheckpointError(f"the setting {name}: {value!r} that it was saved with is not supported")

    for name in settings.keys() - KNOWN_SETTINGS:
        if settings[name] not in (None, {}, False):
            raise refuse(name, settings[name])
    for name in tokenizer_options(settings).keys() - {"model_max_length"}:
        raise refuse(f"processor_kwargs.{name}", tokenizer_options(settings)[name])
    task = settings.get("transformer_task", "feature-extraction")
    chained = "text-generation" if kinds == ["LogitScore"] else "feature-extraction"
    if task != (chained if kinds else "sequence-classification"):
        raise refuse("transformer_task", task)
    for modality, how in (settings.get("modality_config") or {}).items():
        if modality == "message" and kinds != ["LogitScore"]:
            raise CheckpointError("its texts go through a chat template, which is supported with LogitScore alone")
        if modality == "text" and (how.get("method"), how.get("method_output_name")) != ("forward", OUTPUTS[task]):
            raise refuse("modality_config.text", how)
    processing = settings.get("processing_kwargs") or {}
    for name, value in (processing.get("text") or {}).items():
        if name != "max_length" and (name, value) not in (
            ("truncation", True),
            ("truncation", "longest_first"),
            ("padding", True),
            ("padding", "longest"),
        ):
            raise refuse(f"processing_kwargs.text.{name}", value)
    for name, value in (processing.get("common") or {}).items():
        raise refuse(f"processing_kwargs.common.{name}", value)


def _fitted(checkpoint: Checkpoint, dtype: str) -> TorchEncoder:
    """Encoder and head are put together as `Scorer.load` does it, on tensors without values."""
    config = checkpoint.config
    weights = checkpoint.weights(values=False).to(torch.float32, META)
    other = not checkpoint.is_cross_encoder and (checkpoint.folder / "modules.json").exists()
    if other and not any(name.startswith("classifier.") for name in weights.names):
        raise CheckpointError("it was not saved by a CrossEncoder, and has no classifier that would score a pair")
    encoder = torch_encoder(config, weights, RunAttention())
    head_of(checkpoint.head(values=False), config, weights)
    if dtype == "int8" and not fits(encoder):
        raise CheckpointError(f"{checkpoint.folder} has widths that int8 is not made for; set dtype to auto")
    return encoder


def _check_tokenizer(checkpoint: Checkpoint, kinds: list[str], encoder: TorchEncoder) -> None:
    loaded, kind = checkpoint.tokenizer, checkpoint.config.model_type
    if (largest := max(loaded.get_vocab().values(), default=0)) >= encoder.vocabulary:
        raise CheckpointError(
            f"its tokenizer has ids up to {largest}, and the model {encoder.vocabulary} embeddings; is the tokenizer "
            f"that of this model?"
        )
    if loaded.truncation_side != "right":
        raise CheckpointError("its tokenizer cuts texts at their beginning, which is not supported")
    if loaded.padding_side != "right" and kind not in CAUSAL and (not kinds or kind == "bert"):
        raise CheckpointError(
            "its tokenizer pads on the left, so that in Sentence Transformers a score depends on the pairs beside it"
        )
    if not checkpoint.is_cross_encoder and loaded.chat_template is not None:
        raise CheckpointError("its tokenizer has a chat template, which is supported with LogitScore alone")
    pooling = next((m.config for m in checkpoint.head(values=False) if m.kind == "Pooling"), {})
    if checkpoint.default_prompt and not pooling.get("include_prompt", True):
        raise CheckpointError(
            "its default prompt is left out of pooling (include_prompt: false), which is not supported"
        )
