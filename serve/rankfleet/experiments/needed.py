"""How many requests an experiment needs, by simulated experiments on recorded requests."""

import math
from dataclasses import dataclass

import numpy as np

from rankfleet.core.errors import ConfigError
from rankfleet.estimates.differences import ALPHA, MIN_UNITS, Difference, Ratio, standard_error_for
from rankfleet.experiments.measures import Measure
from rankfleet.experiments.requests import Requests

POWER = 0.8
RUNS = 200  # simulated experiments at each number of requests
GROWTH = 1.1  # from one number of requests that is tried to the next
MAX_REQUESTS = 200_000_000  # beyond, no number is named
MIN_RECORDED_UNITS = 100  # so that those drawn again and again are not too few


@dataclass(frozen=True)
class Need:
    """The requests of both arms together after which a difference of the margin's size is found, or ruled out where
    there is none, in POWER of all experiments. requests: None beyond MAX_REQUESTS."""

    measure: Measure
    margin: float
    value: float
    requests: int | None


def need_of(
    recorded: Requests, measure: Measure, margin: float, share: float, comparisons: int, rng: np.random.Generator
) -> Need:
    """Draws units of the recorded requests, with all that they sent, again and again.

    recorded: requests that were all answered in the same way, such as those of a control. share: of the arm, the rest
    is control's. comparisons: how many intervals have to hold together. Raises ConfigError if the records say too
    little.
    """
    values = recorded.values(measure)
    valued = ~np.isnan(values)
    units, places = np.unique(recorded.units[valued], return_inverse=True)
    if len(units) < MIN_RECORDED_UNITS:
        raise ConfigError(
            f"{measure.name}: {len(units):,} units have it, and at least {MIN_RECORDED_UNITS} are needed; record more "
            "requests first"
        )
    sums, counts = np.bincount(places, values[valued]), np.bincount(places).astype(float)
    value = float(sums.sum() / counts.sum())
    per_request = len(recorded) / counts.sum()  # how many requests there are for each that has the measure
    alpha = ALPHA / comparisons
    spread = max(float(((sums - value * counts) ** 2).mean()), float(counts.mean()) ** 2 / len(counts))
    error = standard_error_for(margin, margin, alpha)  # at which half of the experiments would do: too few requests
    needed_units = spread / (counts.mean() * error) ** 2 * (1 / share + 1 / (1 - share))
    needed_units = max(needed_units, MIN_UNITS / min(share, 1 - share) + 1)
    while (requests := needed_units * counts.mean() * per_request) <= MAX_REQUESTS:
        if power(sums, counts, round(needed_units), share, margin, alpha, rng) >= POWER:
            return Need(measure, margin, value, round(requests))
        needed_units *= GROWTH
    return Need(measure, margin, value, None)


def power(
    sums: np.ndarray,
    counts: np.ndarray,
    units: int,
    share: float,
    margin: float,
    alpha: float,
    rng: np.random.Generator,
) -> float:
    """Share of simulated experiments without a difference whose interval ends within the margin. sums, counts: float
    [recorded units]. units: of both arms together."""
    treated = round(units * share)
    drawn = (simulated(sums, counts, units - treated, rng), simulated(sums, counts, treated, rng))
    won = 0
    for before, after in zip(*drawn, strict=True):
        won += Difference.between(before, after, margin, alpha).low > -margin
    return won / RUNS


def simulated(sums: np.ndarray, counts: np.ndarray, units: int, rng: np.random.Generator) -> list[Ratio]:
    """RUNS arms of so many units. How often each recorded unit is drawn follows a multinomial distribution."""
    ratios = []
    for _ in range(RUNS):
        times = rng.multinomial(units, np.full(len(sums), 1 / len(sums)))
        total = float(times @ counts)
        value = float(times @ sums) / total
        variance = float(times @ (sums - value * counts) ** 2) / total**2
        least = (total / units / total) ** 2
        ratios.append(Ratio(value, math.sqrt(max(variance, least)), units))
    return ratios
