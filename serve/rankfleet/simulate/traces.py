"""Arrival times: from recorded counts per second, or by a random process."""

import csv
from pathlib import Path

import numpy as np

from rankfleet.core.errors import ConfigError

FORMS = "gamma:rate=60,cv=4 or poisson:rate=60"


def from_trace(path: Path, rate_scale: float, rng: np.random.Generator) -> np.ndarray:
    """Arrival times of a CSV of `second,requests`, float64 [requests], in seconds, ascending.

    Each count is multiplied by `rate_scale` and rounded at random such that its mean is kept. The requests of a second
    are uniform in it. Raises ConfigError if the file is not such a trace.
    """
    counts = read_counts(path) * rate_scale
    whole = np.floor(counts)
    number = (whole + (rng.random(len(counts)) < counts - whole)).astype(np.int64)
    seconds = np.repeat(np.arange(len(counts)), number)
    return np.sort(seconds + rng.random(len(seconds)))


def read_counts(path: Path) -> np.ndarray:
    """Requests in each second, float64 [seconds]. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            counts = np.array([float(row["requests"]) for row in csv.DictReader(file)])
    except OSError as error:
        raise ConfigError(f"trace {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"trace {path} is not a CSV with a column `requests` of counts per second") from error
    if len(counts) == 0 or counts.min() < 0 or counts.sum() <= 0:
        raise ConfigError(f"trace {path} holds no requests")
    return counts


def from_process(spec: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Arrival times of a renewal process, float64 [requests], in seconds, ascending.

    spec: `gamma:rate=R,cv=V` has gaps of mean 1 ÷ R and coefficient of variation V, gamma distributed with shape
        1 ÷ V²; `poisson:rate=R` is V = 1

    Raises ConfigError for any other spec.
    """
    name, _, rest = spec.partition(":")
    try:
        given = {key: float(value) for key, value in (pair.split("=") for pair in rest.split(","))}
        rate, cv = given.pop("rate"), given.pop("cv", 1.0)
        if name not in ("gamma", "poisson") or given or not (rate > 0 and cv > 0) or (name == "poisson" and cv != 1):
            raise ValueError(spec)
    except (KeyError, ValueError):
        raise ConfigError(f"arrivals {spec!r} are not understood; write {FORMS}") from None
    shape = 1 / cv**2
    times: list[np.ndarray] = []
    last = 0.0
    while last < seconds:
        gaps = rng.gamma(shape, 1 / (rate * shape), max(1000, int(rate * seconds)))
        times.append(last + np.cumsum(gaps))
        last = float(times[-1][-1])
    all_times = np.concatenate(times)
    return all_times[all_times < seconds]
