"""Heads: from the encoder's hidden states to one raw logit per pair."""

from collections.abc import Callable
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.activations import activation
from rankfleet.engine.checkpoint import HeadModule
from rankfleet.engine.packing import PackedBatch
from rankfleet.engine.weights import Weights

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
    def first_only(self) -> bool:
        """Whether the encoder need give no more than one token of each pair: the first, or the last if causal."""
        return self.pooling != "mean"

    def __call__(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Raw logits, float32 [pairs]. hidden: [pairs, hidden] if `first_only`, else [tokens, hidden]."""
        x = hidden if self.first_only else mean_of_tokens(hidden, batch)
        for step in self.steps:
            x = step(x)
        return x.squeeze(-1).float()


def chained_head(modules: list[HeadModule], dtype: torch.dtype, device: torch.device) -> Head:
    """The head that Sentence Transformers modules describe: Pooling → Dense → LayerNorm → Dense."""
    pooling, steps, width = "cls", list[Step](), 0
    for module in modules:
        weights = module.weights.to(dtype, device)
        if module.kind == "Pooling":
            pooling = pooling_mode(module.config)
        elif module.kind == "Dense":
            if module.config.get("use_residual"):
                raise CheckpointError("a Dense module with use_residual is not supported")
            linear = weights.linear("linear")
            width = len(linear.weight)
            steps += [linear, activation(module.config["activation_function"])]
        elif module.kind == "LayerNorm":
            steps.append(weights.norm("norm", eps=1e-5))
        elif module.kind != "Dropout":
            raise CheckpointError(f"a head module of kind {module.kind!r} is not supported")
    if width != 1:
        raise CheckpointError(f"the head ends in {width} outputs; a reranker has one")
    return Head(pooling, steps)


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
    scored = [module.kind for module in modules] == ["LogitScore"]
    if scored != (config.model_type in CAUSAL):
        raise CheckpointError(f"a {config.model_type} reranker is read with{'' if not scored else 'out'} LogitScore")
    if scored:
        return logit_head(modules[0].config, weights)
    if not modules:
        return classification_head(config, weights)
    return chained_head(modules, weights.dtype, weights.device)


def pooling_mode(config: dict[str, Any]) -> str:
    """Of a Pooling module's config, in today's spelling or that of older releases (`pooling_mode_cls_token`)."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    modes = [
        k.removeprefix("pooling_mode_") for k, on in config.items() if k.startswith("pooling_mode_") and on is True
    ]
    names = {"cls_token": "cls", "mean_tokens": "mean"}
    return "+".join(names.get(mode, mode) for mode in modes) or "mean"


def classification_head(config: Any, weights: Weights) -> Head:
    """The head inside a Transformers `…ForSequenceClassification` checkpoint with one label."""
    if config.num_labels != 1:
        raise CheckpointError(f"the classifier has {config.num_labels} labels; a reranker has one")
    if config.model_type == "bert":
        pooler = weights.linear("bert.pooler.dense")
        return Head("cls", [pooler, torch.tanh, weights.linear("classifier")])
    if config.model_type in ("roberta", "xlm-roberta"):
        dense = weights.linear("classifier.dense")
        return Head("cls", [dense, torch.tanh, weights.linear("classifier.out_proj")])
    steps: list[Step] = [
        weights.linear("head.dense"),
        activation(config.classifier_activation),
        weights.norm("head.norm", config.norm_eps),
        weights.linear("classifier"),
    ]
    return Head(config.classifier_pooling, steps)
