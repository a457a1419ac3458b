"""Whether a checkpoint can be scored, decided before its weights are read: from its configs, its tokenizer and the
headers of its weight files. Needs neither Ray nor a device.
"""

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.sdpa import RunAttention
from rankfleet.engine.checkpoint.files import ENCODER_KINDS, Checkpoint
from rankfleet.engine.checkpoint.weights import META, naming, one_line
from rankfleet.engine.models.families import family_of
from rankfleet.engine.models.heads import has_classifier
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.runtime.loading import build_encoder, build_head, max_pair_tokens, pair_template

# Settings of the encoder's module in Sentence Transformers that are either read here or do not change scores:
# `query_length` and the like are for texts that are encoded on their own; `unpad_inputs` and `model_kwargs` choose how
# to compute.
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
# The model's output that is read, by task.
OUTPUTS = {"feature-extraction": "last_hidden_state", "sequence-classification": "logits", "text-generation": "logits"}


def check_checkpoint(checkpoint: Checkpoint, dtype: str = "auto", max_tokens: int | None = None) -> bool:
    """Whether the compiled kernels are made for a model of this family and these widths.

    Raises CheckpointError for a checkpoint that cannot be loaded, or whose scores would differ from those of Sentence
    Transformers. The message is one sentence with folder and reason.

    `dtype`: of the group. `max_tokens`: of the tier.

    `Scorer.load` calls this first, so that it refuses a checkpoint with the same message. What only the weights (values
    that are not finite) or the device can show, it refuses later.
    """
    with naming(checkpoint.folder):
        try:
            return _check(checkpoint, dtype, max_tokens)
        except CheckpointError:
            raise
        except Exception as error:  # a malformed file may raise anything in the libraries that read it
            raise CheckpointError(
                f"{checkpoint.folder} cannot be loaded as a checkpoint ({type(error).__name__}: {one_line(error)})"
            ) from error


def _check(checkpoint: Checkpoint, dtype: str, max_tokens: int | None) -> bool:
    if (checkpoint.folder / "adapter_config.json").exists():
        raise CheckpointError("it holds an adapter (adapter_config.json); merge it into its base model and save that")
    config = checkpoint.config
    family_of(config)  # raises for an architecture that is not supported
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method", "some way") if isinstance(quantized, dict) else type(quantized).__name__
        raise CheckpointError(f"its weights are quantized ({method}), which is not supported")
    kinds = _check_modules(checkpoint)
    _check_settings(checkpoint, kinds)
    encoder = _build_without_values(checkpoint)
    fits_kernels = family_of(config).fits_kernels(encoder)
    if dtype == "int8" and not fits_kernels:
        raise CheckpointError(f"{checkpoint.folder} has widths that int8 is not made for; set dtype to auto")
    _check_tokenizer(checkpoint, kinds, encoder)
    limit = max_pair_tokens(checkpoint)
    pair_template(checkpoint).check_room(min(limit, max_tokens or limit))
    return fits_kernels


def _check_modules(checkpoint: Checkpoint) -> list[str]:
    """The class names of the modules after the encoder; empty for a plain classifier."""
    if not checkpoint.is_cross_encoder:
        return []
    (first, folder), *rest = checkpoint.modules or [("", checkpoint.folder)]
    if first not in ENCODER_KINDS or any(kind in ENCODER_KINDS for kind, _ in rest):
        raise CheckpointError("modules.json has to begin with a Transformer and to contain no other")
    if folder != checkpoint.folder:
        raise CheckpointError(f"its encoder lies in {folder.name}, and has to lie at the root")
    return [kind for kind, _ in rest]


def _check_settings(checkpoint: Checkpoint, kinds: list[str]) -> None:
    """Raises CheckpointError for settings of the encoder's module that Sentence Transformers applies and this engine
    does not."""
    settings, options = checkpoint.settings, checkpoint.tokenizer_options
    if not settings and not kinds:
        return

    def refuse(name: str, value: object) -> CheckpointError:
        return CheckpointError(f"the setting {name}: {value!r} that it was saved with is not supported")

    for name in settings.keys() - KNOWN_SETTINGS:
        if settings[name] not in (None, {}, False):
            raise refuse(name, settings[name])
    for name in options.keys() - {"model_max_length"}:
        raise refuse(f"processor_kwargs.{name}", options[name])
    task = settings.get("transformer_task", "feature-extraction")
    chain_task = "text-generation" if kinds == ["LogitScore"] else "feature-extraction"
    if task != (chain_task if kinds else "sequence-classification"):
        raise refuse("transformer_task", task)
    for modality, how in (settings.get("modality_config") or {}).items():
        if modality == "message" and kinds != ["LogitScore"]:
            raise CheckpointError("its texts go through a chat template, which is supported only with LogitScore")
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


def _build_without_values(checkpoint: Checkpoint) -> TorchEncoder:
    """The encoder, built together with its head as in `Scorer.load`, from tensors that have shapes and no values."""
    config = checkpoint.config
    weights = checkpoint.weights(values=False).to(torch.float32, META)
    of_another_model = not checkpoint.is_cross_encoder and (checkpoint.folder / "modules.json").exists()
    if of_another_model and not has_classifier(weights):
        raise CheckpointError("it was not saved by a CrossEncoder, and has no classifier that would score a pair")
    encoder = build_encoder(config, weights, RunAttention())
    build_head(checkpoint.head(values=False), config, weights)
    return encoder


def _check_tokenizer(checkpoint: Checkpoint, kinds: list[str], encoder: TorchEncoder) -> None:
    loaded, family = checkpoint.tokenizer, family_of(checkpoint.config)
    if (largest := max(loaded.get_vocab().values(), default=0)) >= encoder.vocabulary:
        raise CheckpointError(
            f"its tokenizer has ids up to {largest}, and the model {encoder.vocabulary} embeddings; is the tokenizer "
            f"that of this model?"
        )
    if loaded.truncation_side != "right":
        raise CheckpointError("its tokenizer truncates texts on the left, which is not supported")
    # Without a Pooling module, Sentence Transformers scores the first token of the padded text, which may be padding.
    shifts = family.left_padding_shifts or (not kinds and not family.causal)
    if loaded.padding_side != "right" and shifts:
        raise CheckpointError(
            "its tokenizer pads on the left, so that in Sentence Transformers a score depends on its batch"
        )
    if not checkpoint.is_cross_encoder and loaded.chat_template is not None:
        raise CheckpointError("its tokenizer has a chat template, which is supported only with LogitScore")
    pooling = next((m.config for m in checkpoint.head(values=False) if m.kind == "Pooling"), {})
    if checkpoint.default_prompt and not pooling.get("include_prompt", True):
        raise CheckpointError(
            "its default prompt is left out of pooling (include_prompt: false), which is not supported"
        )
