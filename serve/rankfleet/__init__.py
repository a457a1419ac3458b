"""Rankfleet: a reranking cluster that answers with the best ranking that fits the time."""

from importlib.metadata import version

__version__ = version("rankfleet")
