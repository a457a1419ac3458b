"""Rankfleet: a reranking cluster that answers with the best ranking that fits the time."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rankfleet")
except PackageNotFoundError:  # run from a source tree, as benchmarks/gpu_suite.py is
    __version__ = "0+source"
