"""Heads: from the encoder's hidden states to one raw logit per pair."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.checkpoint.files import HeadModule
from rankfleet.engine.checkpoint.weights import Weights, naming
from rankfleet.engine.models.activations import activation, torch_activation

CAUSAL = ("qwen2",)  # language models: the score is read off the logits behind the last token
Step = Callable[[torch.Tensor], torch.Tensor]


def mean_of_tokens(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """[tokens, hidden] → [pairs, hidden]."""
    sums = torch.zeros((len(batch.lengths), hidden.shape[-1]), dtype=torch.float32, device=hidden.device)
    # The size given spares a GPU the wait for the sum of the lengths.
    pair_of_token = torch.repeat_interleave(
        torch.arange(len(batch.lengths), device=hidden.device), batch.lengths, output_size=len(hidden)
    )
    sums.index_add_(0, pair_of_token, hidden.float())
    return (sums / batch.lengths[:, None]).to(hidden.dtype)


class Head:
    """Pooling, then a chain of steps to [pairs, 1]."""

    def __init__(self, pooling: str, steps: list[Step]) -> None:
        if pooling not in ("cls", "mean", "last"):
            raise CheckpointError(f"pooling {pooling!r} is not supported; rerankers use cls, mean or last")
        self.pooling = pooling
        self.steps = steps

    @property
    def pooled_only(self) -> bool:
        """Whether the encoder need give no more than one token of each pair: the first, or the last if causal."""
        return self.pooling != "mean"

    def __call__(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Raw logits, float32 [pairs]. hidden: [pairs, hidden] if `pooled_only`, else [tokens, hidden]."""
        x = hidden if self.pooled_only else mean_of_tokens(hidden, batch)
        for step in self.steps:
            x = step(x)
        return x.squeeze(-1).float()


def chained_head(modules: list[HeadModule], hidden: int, dtype: torch.dtype, device: torch.device) -> Head:
    """The head that Sentence Transformers modules describe: Pooling → Dense → LayerNorm → Dense. hidden: width of the
    encoder. Raises CheckpointError that names the module's folder."""
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
    """The name of a Dense module's output: `sentence_embedding`, or `scores` of the last one."""
    source = config.get("module_input_name", "sentence_embedding")
    output = config.get("module_output_name") or source
    if source != "sentence_embedding" or output not in ("sentence_embedding", "scores"):
        raise CheckpointError(f"a Dense module from {source!r} to {output!r} is not supported")
    return str(output)


def dense_steps(config: dict[str, Any], weights: Weights) -> list[Step]:
    """A Dense module: linear, then activation. Where its config names none it is Tanh, as Sentence Transformers has
    it."""
    if config.get("use_residual"):
        raise CheckpointError("a Dense module with use_residual is not supported")
    bias = bool(config.get("bias", True))
    if unknown := weights.names - {"linear.weight", *(["linear.bias"] if bias else [])}:
        raise CheckpointError(f"tensor {min(unknown)!r} is none that a Dense module with this config.json has")
    linear = weights.linear("linear", out=config["out_features"], inner=config["in_features"], bias=bias)
    return [linear, torch_activation(config.get("activation_function", "torch.nn.Tanh"))]


def logit_head(score: dict[str, Any], weights: Weights) -> Head:
    """Sentence Transformers' LogitScore behind a language model: the logit of one token, less that of another if
    there is one. Two rows of the output matrix are all it takes; their difference is formed in float32."""
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


def head_of(modules: list[HeadModule], config: Any, weights: Weights) -> Head:
    """The head of any kind of checkpoint, on the device and in the precision of the weights. modules: as
    `Checkpoint.head` lists them; weights: of the encoder's folder. Raises CheckpointError for a head that does not go
    with the encoder."""
    with naming(weights.folder):
        scored = [module.kind for module in modules] == ["LogitScore"]
        if scored != (config.model_type in CAUSAL):
            raise CheckpointError(
                f"a {config.model_type} reranker is read with{'' if not scored else 'out'} LogitScore"
            )
        if scored:
            return logit_head(modules[0].config, weights)
        if not modules:
            return classification_head(config, weights)
        return chained_head(modules, config.hidden_size, weights.dtype, weights.device)


def pooling_mode(config: dict[str, Any]) -> str:
    """Of a Pooling module's config, in today's spelling or that of older releases (`pooling_mode_cls_token`)."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    modes = [
        k.removeprefix("pooling_mode_") for k, on in config.items() if k.startswith("pooling_mode_") and on is True
    ]
    names = {"cls_token": "cls", "mean_tokens": "mean"}
    return "+".join(names.get(mode, mode) for mode in modes) or "mean"


def labels_of(config: Any) -> int:
    """Outputs of the classifier. A config without an architecture for classification says nothing of labels, and the
    default of Transformers, two, is not meant: Sentence Transformers takes one."""
    named = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return int(config.num_labels) if named else 1


def classification_head(config: Any, weights: Weights) -> Head:
    """The head inside a Transformers `…ForSequenceClassification` checkpoint with one label."""
    if (labels := labels_of(config)) != 1:
        raise CheckpointError(f"the classifier has {labels} labels; a reranker has one")
    if not any(name.startswith("classifier.") for name in weights.names):
        raise CheckpointError(f"there is no classifier; a {config.model_type} encoder alone gives no score")
    hidden = config.hidden_size
    if config.model_type == "bert":
        pooler = weights.linear("bert.pooler.dense", out=hidden, inner=hidden)
        return Head("cls", [pooler, torch.tanh, weights.linear("classifier", out=1, inner=hidden)])
    if config.model_type in ("roberta", "xlm-roberta"):
        dense = weights.linear("classifier.dense", out=hidden, inner=hidden)
        return Head("cls", [dense, torch.tanh, weights.linear("classifier.out_proj", out=1, inner=hidden)])
    steps: list[Step] = [
        weights.linear("head.dense", out=hidden, inner=hidden, bias=config.classifier_bias),
        activation(config.classifier_activation),
        weights.norm("head.norm", config.norm_eps, hidden, config.norm_bias),
        weights.linear("classifier", out=1, inner=hidden),
    ]
    return Head(config.classifier_pooling, steps)
