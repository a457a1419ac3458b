"""Calibration: a tier's score as the probability that a document is relevant.

    log-odds = slope × score + intercept        probability = 1 / (1 + e^−log-odds)

Logits of two tiers are not on one scale, so that a threshold on one says nothing for another. A map per tier (Platt
scaling) puts them on one: `rankfleet evaluate` fits it on judged queries and writes it into the quality table. Fused
scores have a map of their own. A tier without one has the plain sigmoid.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """The map of one tier. Raises ValueError unless slope and intercept are finite and the slope is above 0, so that
    the order stays."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.intercept)):
            raise ValueError(f"calibration: slope {self.slope} has to be above 0 and intercept {self.intercept} finite")

    def log_odds(self, scores: np.ndarray) -> np.ndarray:
        """float64, of the same shape. scores: logits, or fused scores; −inf stays."""
        return self.slope * scores.astype(np.float64) + self.intercept


PLAIN = Calibration(1.0, 0.0)  # the sigmoid


def parse_calibrations(data: Mapping[str, Any]) -> dict[str, Calibration]:
    """By tier. data: {tier: {"slope", "intercept"}}. Raises TypeError for other keys, and ValueError as above."""
    return {tier: Calibration(**{key: float(value) for key, value in own.items()}) for tier, own in data.items()}


def probability(log_odds: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−log-odds) in float64, so that high scores stay apart: in bfloat16 10.8 and 9.9 give the same."""
    power = np.exp(-np.abs(log_odds, dtype=np.float64))  # of −|x|, which cannot overflow
    return np.where(log_odds >= 0, 1.0, power) / (1 + power)
