"""Measured rates of precisions, remembered in the cache folder, so that a second start does not measure.

One file for each combination of processor, model shape and kernels, with pairs per second by precision.
"""

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rankfleet.engine.native.library import SOURCES, cache_folder, cpu_flags, library
from rankfleet.estimates.precision import Rates

PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping")  # fields of /proc/cpuinfo
SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

log = logging.getLogger("rankfleet")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What tells this kind of processor from others; empty if Linux does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return dict(pair for pair in reversed(fields) if pair[0] in PROCESSOR)


def digest(content: bytes) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def conditions(config: Any, compiled: bool) -> dict[str, Any]:
    """All that rates depend on. config: of the encoder. compiled: whether the kernels may be used."""
    kernels = digest(b"\0".join(path.read_bytes() for path in SOURCES))
    return {
        "processor": processor(),
        "instructions": digest(" ".join(sorted(cpu_flags())).encode()),
        "shape": {name: getattr(config, name, None) for name in SHAPE},
        "kernels": kernels if compiled and library() is not None else None,
        "torch": torch.__version__,
    }


class RateCache:
    """The rates that were measured under one set of conditions."""

    def __init__(self, conditions: dict[str, Any], folder: Path | None = None) -> None:
        """conditions: as plain data. folder: the cache folder by default."""
        self._conditions = conditions
        self._folder = folder

    def _path(self) -> Path:
        name = digest(json.dumps(self._conditions, sort_keys=True).encode())
        return (self._folder or cache_folder()) / f"rates-{name}.json"

    def read(self, dtypes: Iterable[str]) -> dict[str, float] | None:
        """The rates of these precisions; None unless all are stored as positive numbers."""
        try:
            stored = json.loads(self._path().read_bytes())["pairs_per_s"]
            rates = {dtype: float(stored[dtype]) for dtype in dtypes}
        except (OSError, ValueError, KeyError, TypeError):  # missing, or damaged
            return None
        return rates if all(0 < rate < math.inf for rate in rates.values()) else None

    def write(self, rates: Rates) -> None:
        """Store rates in place of what is there. A folder that cannot be written costs a measurement at the next start,
        and nothing else."""
        try:
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                json.dump({"measured": self._conditions, "pairs_per_s": dict(rates)}, file, indent=1)
            os.chmod(file.name, 0o644)  # an image may be built by one user and run by another
            os.replace(file.name, path)
        except OSError as error:
            log.info("measured rates are not remembered: %s", error)
