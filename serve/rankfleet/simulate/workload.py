"""Workloads: the budgets and numbers of candidates that requests have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from rankfleet.core.errors import ConfigError
from rankfleet.core.fleet_file import explain, read_yaml
from rankfleet.core.sections import Name, Section


class RequestClass(Section):
    """A class of requests with one budget."""

    slo_ms: float | None = Field(gt=0, description="budget per request; null for none")
    share: float = Field(gt=0, description="of all requests, relative to the other classes")
    when_none_fits: Literal["degrade", "refuse"] = Field("refuse", description="as in the fleet file")
    tenant: Name | None = Field(None, description="whose requests these are; null for none")


class Candidates(Section):
    """A size of requests."""

    count: int = Field(ge=1, description="documents of a request")
    share: float = Field(gt=0, description="of all requests, relative to the other sizes")


class Workload(Section):
    """A workload file. Class and size of a request are independent."""

    classes: dict[Name, RequestClass] = Field(min_length=1, description="by name")
    candidates: list[Candidates] = Field(min_length=1, description="sizes, drawn independently of the class")
    tokens: int = Field(ge=1, description="tokens of a pair, query included")
    seconds: float = Field(3600.0, gt=0, description="how long arrivals last, where no trace says so")

    @model_validator(mode="after")
    def _sizes_differ(self) -> Self:
        counts = [c.count for c in self.candidates]
        if len(set(counts)) < len(counts):
            raise ValueError("candidates: a count is named twice; add up its shares")
        return self


def read_workload(path: Path) -> Workload:
    """Read a workload file. Raises ConfigError that names every wrong key."""
    try:
        return Workload.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(explain(error, str(path))) from error


@dataclass(frozen=True)
class Requests:
    """Requests in order of arrival.

    arrived_s: float64 [requests]
    kind: int [requests], index of the request's class in the workload
    pairs: int [requests], number of candidates
    """

    arrived_s: np.ndarray
    kind: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return len(self.arrived_s)


def draw(workload: Workload, arrived_s: np.ndarray, rng: np.random.Generator) -> Requests:
    """Draw a class and a size for each arrival."""

    def pick(shares: list[float]) -> np.ndarray:
        return rng.choice(len(shares), len(arrived_s), p=np.array(shares) / sum(shares))

    kind = pick([c.share for c in workload.classes.values()])
    size = pick([c.share for c in workload.candidates])
    return Requests(arrived_s, kind, np.array([c.count for c in workload.candidates])[size])
