"""The options with their figures: measured by `rankfleet evaluate`, or published."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.core.errors import ConfigError
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.recommend.choice import Option

PUBLISHED = Path(__file__).parent.parent / "configs" / "published" / "ettin.json"
PUBLISHED_DEVICE = "H100"


@dataclass(frozen=True)
class Figures:
    """What is known of the options, and of the order in which the candidates come.

    source: where the figures come from, in words
    queries: judged queries; 0 if the figures are published
    top_k: candidates of a query
    given: the candidates' own order, as an option without stages
    qualities: nDCG@10 of each tier alone
    data_sets: the quality table, as in `estimates/quality.py`
    """

    source: str
    queries: int
    top_k: int
    options: Sequence[Option]
    given: Option
    qualities: Mapping[str, float]
    data_sets: Mapping[str, Any]

    def timed(
        self, models: Mapping[str, LatencyModel], candidates: int, tokens: int, batch_tokens: Mapping[str, int]
    ) -> "Figures":
        """With the times that latency models predict, and none for options of which a tier has no model.

        candidates: of a request; tokens: of a pair; batch_tokens: of a full batch by tier; the largest of
        them for a tier that is not among them
        """

        most = max(batch_tokens.values())

        def with_times(option: Option) -> Option:
            if any(tier not in models for tier in option.tiers):
                return replace(option, ms=None, p99_ms=None)
            work = [(tier, work_of(min(candidates, kept or candidates), tokens)) for tier, kept in option.stages]
            costs = [models[tier].cost(each, batch_tokens.get(tier, most)) for tier, each in work]
            p99_ms = sum(models[tier].p99_ms(each) for tier, each in work)
            return replace(option, ms=sum(cost.mean_amortized_ms for cost in costs), p99_ms=p99_ms)

        return replace(self, options=[with_times(option) for option in self.options])


def figures_of(path: Path | None, ranked: bool) -> tuple[Figures, dict[str, LatencyModel]]:
    """Of a file that `rankfleet evaluate --json` wrote; for None the published ones, with their latency models.

    ranked: as in `measured_figures`. Raises ConfigError.
    """
    if path is None:
        return published_figures(read_json(PUBLISHED))
    try:
        return measured_figures(read_json(path), ranked), {}
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{path} has no figures by query ({error!r}); write it anew with `rankfleet evaluate --json`"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigError if the file is missing or not a JSON object."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**data}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write it with `rankfleet evaluate --json`") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a file of figures: {error}") from error


def measured_figures(data: Mapping[str, Any], ranked: bool) -> Figures:
    """Of a file that `rankfleet evaluate --json` wrote. Times are the medians in it, of one query at a time.

    ranked: fused figures where weights were fitted, because the fleet's candidates come in a retriever's order; else
    those of the tiers alone. Raises KeyError or the like for a file without figures by query.
    """
    collections = data.get("collections", [data])
    by_query = [each["by_query"] for each in collections]
    way = "order" if ranked and all("order" in each for each in by_query) else "alone"
    mean, top_k = data.get("mean", data), int(collections[0]["top_k"])
    ms = {tier: float(figures["p50_ms"]) for tier, figures in mean["tiers"].items()}
    options = []
    for plan in by_query[0][way]:
        stages = stages_of(plan)
        took_ms = sum(ms[tier] * (1 if kept is None else min(1.0, kept / top_k)) for tier, kept in stages)
        options.append(option_of(stages, [each[way][plan] for each in by_query], took_ms))
    queries = sum(each["queries"] for each in collections)
    source = f"{queries:,} queries of {', '.join(each['data'] for each in collections)}"
    if way == "order":
        source += f", fused with the order of {mean['retriever']['name']}"
    if "judge" in data:
        source += f", with the order of {data['judge']} as truth"
    given = option_of((), [each["retriever"] for each in by_query], 0.0)
    qualities = {tier: figures["ndcg@10"] for tier, figures in mean["tiers"].items()}
    return Figures(source, queries, top_k, options, given, qualities, data["data_sets"])


def option_of(stages: tuple[tuple[str, int | None], ...], values: Sequence[Sequence[float]], ms: float) -> Option:
    """values: by collection, nDCG@10 of each query."""
    arrays = [np.array(each, np.float64) for each in values]
    return Option(stages, float(np.mean([each.mean() for each in arrays])), ms, None, arrays)


def stages_of(plan: str) -> tuple[tuple[str, int | None], ...]:
    """`small` or `small>large 20`, as `rankfleet evaluate` names plans."""
    small, _, second = plan.partition(">")
    large, _, kept = second.partition(" ")
    return ((small, None), (large, int(kept))) if second else ((small, None),)


def published_figures(data: Mapping[str, Any]) -> tuple[Figures, dict[str, LatencyModel]]:
    """Of `configs/published/ettin.json`, with the latency models that its rates give for PUBLISHED_DEVICE."""
    options, models = [], {}
    for tier, figures in data["tiers"].items():
        pairs_per_s = figures["pairs_per_s"][PUBLISHED_DEVICE]
        models[tier] = LatencyModel(data["alpha_ms"], 1e3 / (pairs_per_s * data["tokens"]), 0.0)
        options.append(Option(((tier, None),), figures["ndcg@10"]))
    qualities = {option.name: option.quality for option in options}
    given = Option((), float(np.mean([*data["retrievers"].values()])), 0.0)
    table = {"retriever": round(given.quality, 4), "tiers": qualities}
    source, data_sets = data["measured"]["source"], {"published": table}
    return Figures(source, 0, data["top_k"], options, given, qualities, data_sets), models


def work_of(candidates: int, tokens: int) -> Work:
    """The work of a request whose pairs have the same length."""
    return Work(candidates, candidates * tokens, candidates * tokens * tokens)
