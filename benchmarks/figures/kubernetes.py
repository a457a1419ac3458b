"""GPUs of each class that a load takes: docs/kubernetes.md."""

from collections.abc import Callable
from typing import Any

from benchmarks.figures.stored import stored

from rankfleet.bench.tables import markdown
from rankfleet.core.fleet_file import read_config
from rankfleet.recommend.figures import PUBLISHED, read_json

HEADER = ["mean nDCG@10 at least", "class", "GPUs", "GPU-hours per million requests", "in time", "mean nDCG@10", "busy"]


def gpu_classes() -> str:
    """The fewest GPUs for each goal, and the price at which two classes cost the same."""
    found = stored("gpu_classes")
    settings, tiers = found["settings"], read_config(PUBLISHED.parents[1] / "sim-fleet.yaml").tiers
    rows, ratios = [], []
    for goal, classes in found["goals"].items():
        named = f"{tiers[goal].quality} (of `{goal}`)"
        for gpu, figures in classes.items():
            rows.append([named, gpu, *row_of(figures, settings["requests_per_s"])])
            named = ""
        if all(classes.values()):
            counts = [figures["gpus"] for figures in classes.values()]
            ratios.append(f"{counts[0] / counts[1]:.2f}× (`{goal}`)")
    first, second = next(iter(found["goals"].values()))
    return (
        f"{markdown(HEADER, rows, left=2)}\n\n{second} is the cheaper class where its hour costs less than "
        f"{', '.join(ratios)} of an hour of {first}. Simulated {found['measured']['date']}: "
        f"{settings['requests_per_s']:g} requests per second for {settings['seconds']:g} s, Poisson, of the workload "
        f"`mixed` ({settings['attainment']:.0%} have to be in time), on the fleet `sim-fleet` with the rates of: "
        f"{read_json(PUBLISHED)['measured']['source']}."
    )


def row_of(figures: dict[str, Any] | None, requests_per_s: float) -> list[str]:
    if figures is None:
        return ["not reached", "", "", "", ""]
    hours = figures["gpus"] * 1e6 / requests_per_s / 3600
    shares = f"{figures['attainment']:.2%}", f"{figures['mean_quality']:.4f}", f"{figures['busy']:.0%}"
    return [str(figures["gpus"]), f"{hours:.1f}", *shares]


FIGURES: dict[str, Callable[[], str]] = {"gpu-classes": gpu_classes}
