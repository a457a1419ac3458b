"""Heads: from the encoder's hidden states to one raw logit per pair, in each of the formats that checkpoints have."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.checkpoint.files import HeadModule
from rankfleet.engine.checkpoint.weights import Weights, naming
from rankfleet.engine.models.activations import torch_activation

Step = Callable[[torch.Tensor], torch.Tensor]


def mean_of_tokens(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """The mean of each pair's hidden states: [tokens, hidden] → [pairs, hidden]."""
    sums = torch.zeros((len(batch.lengths), hidden.shape[-1]), dtype=torch.float32, device=hidden.device)
    # With output_size given, the host does not wait for a GPU to sum the lengths.
    pair_of_token = torch.repeat_interleave(
        torch.arange(len(batch.lengths), device=hidden.device), batch.lengths, output_size=len(hidden)
    )
    sums.index_add_(0, pair_of_token, hidden.float())
    return (sums / batch.lengths[:, None]).to(hidden.dtype)


class Head:
    """Pooling, then a chain of steps to [pairs, 1]."""

    def __init__(self, pooling: str, steps: list[Step]) -> None:
        """`pooling`: `cls` (the first token), `mean` (of all tokens) or `last` (the last token)."""
        if pooling not in ("cls", "mean", "last"):
            raise CheckpointError(f"pooling {pooling!r} is not supported; rerankers use cls, mean or last")
        self.pooling = pooling
        self.steps = steps

    @property
    def pooled_only(self) -> bool:
        """Whether one token of each pair is enough: its first, or its last in a causal model."""
        return self.pooling != "mean"

    def __call__(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Raw logits, float32 [pairs]. hidden: [pairs, hidden] if `pooled_only`, else [tokens, hidden]."""
        x = hidden if self.pooled_only else mean_of_tokens(hidden, batch)
        for step in self.steps:
            x = step(x)
        return x.squeeze(-1).float()


def chained_head(modules: list[HeadModule], hidden: int, dtype: torch.dtype, device: torch.device) -> Head:
    """The head of a chain of Sentence Transformers modules, such as Pooling → Dense → LayerNorm → Dense.

    `hidden`: width of the encoder. Raises CheckpointError that names the folder of a module that is not supported.
    """
    if modules[0].kind != "Pooling":
        raise CheckpointError(f"the module behind the encoder is {modules[0].kind}; it has to be Pooling")
    with naming(modules[0].weights.folder):
        pooling = pooling_mode(modules[0].config)
        if pooling not in ("cls", "mean"):
            raise CheckpointError(f"pooling {pooling!r} is not supported; supported are cls and mean")
    steps, width, output = list[Step](), hidden, "sentence_embedding"
    for module in modules[1:]:
        weights = module.weights.to(dtype, device)
        with naming(weights.folder):
            if output == "scores":
                raise CheckpointError("this module comes behind the one whose output is `scores`")
            if module.kind == "Dense":
                width, output = int(module.config["out_features"]), dense_output(module.config)
                steps += dense_steps(module.config, weights)
            elif module.kind == "LayerNorm":
                steps.append(weights.norm("norm", 1e-5, width))
            elif module.kind == "Normalize":
                steps.append(lambda x: functional.normalize(x, dim=-1))
            elif module.kind != "Dropout":
                raise CheckpointError(f"a head module of kind {module.kind!r} is not supported")
    if output != "scores" or width != 1:
        raise CheckpointError(f"the head ends in {width} outputs named {output!r}; a reranker has one, named 'scores'")
    return Head(pooling, steps)


def dense_output(config: dict[str, Any]) -> str:
    """The name of a Dense module's output: `scores` in the last one, `sentence_embedding` in the others."""
    source = config.get("module_input_name", "sentence_embedding")
    output = config.get("module_output_name") or source
    if source != "sentence_embedding" or output not in ("sentence_embedding", "scores"):
        raise CheckpointError(f"a Dense module from {source!r} to {output!r} is not supported")
    return str(output)


def dense_steps(config: dict[str, Any], weights: Weights) -> list[Step]:
    """A Dense module: linear, then activation, by default Tanh as in Sentence Transformers."""
    if config.get("use_residual"):
        raise CheckpointError("a Dense module with use_residual is not supported")
    bias = bool(config.get("bias", True))
    if unknown := weights.names - {"linear.weight", *(["linear.bias"] if bias else [])}:
        raise CheckpointError(f"tensor {min(unknown)!r} does not belong to a Dense module with this config.json")
    linear = weights.linear("linear", out=config["out_features"], inner=config["in_features"], bias=bias)
    return [linear, torch_activation(config.get("activation_function", "torch.nn.Tanh"))]


def logit_head(score: dict[str, Any], weights: Weights) -> Head:
    """Sentence Transformers' LogitScore on a language model: the logit of `true_token_id`, minus that of
    `false_token_id` if there is one.

    Only these rows of the output matrix are needed; their difference is computed in float32.
    """
    name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"  # the latter if tied
    rows = weights.tensor(name)

    def row(key: str) -> torch.Tensor:
        if not 0 <= score[key] < len(rows):
            raise CheckpointError(f"LogitScore's {key} {score[key]} is outside of the vocabulary of {len(rows)}")
        return rows[score[key]].float()

    direction = row("true_token_id")
    if score.get("false_token_id") is not None:
        direction = direction - row("false_token_id")
    return Head("last", [lambda x: x.float() @ direction[:, None]])


def pooling_mode(config: dict[str, Any]) -> str:
    """The mode of a Pooling module, from today's key or those of older releases (`pooling_mode_cls_token`)."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    modes = [
        k.removeprefix("pooling_mode_") for k, on in config.items() if k.startswith("pooling_mode_") and on is True
    ]
    names = {"cls_token": "cls", "mean_tokens": "mean"}
    return "+".join(names.get(mode, mode) for mode in modes) or "mean"


def labels_of(config: Any) -> int:
    """Number of the classifier's outputs.

    A config whose architecture is not a classifier does not state labels. Transformers would default to two, Sentence
    Transformers takes one.
    """
    named = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return int(config.num_labels) if named else 1


def has_classifier(weights: Weights) -> bool:
    """Whether a checkpoint holds the classifier of a `...ForSequenceClassification` model."""
    return any(name.startswith("classifier.") for name in weights.names)


def check_classifier(config: Any, weights: Weights) -> None:
    """Raises CheckpointError unless the checkpoint holds a classifier with one label."""
    if (labels := labels_of(config)) != 1:
        raise CheckpointError(f"the classifier has {labels} labels; a reranker has one")
    if not has_classifier(weights):
        raise CheckpointError(f"there is no classifier; a {config.model_type} encoder alone gives no score")
