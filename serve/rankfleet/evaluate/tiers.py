"""The tiers of a fleet, loaded to be evaluated on this computer."""

import functools
from collections.abc import Sequence

import torch

from rankfleet.core.config import FleetConfig
from rankfleet.core.cpus import usable_cpus
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.model_size import model_size
from rankfleet.engine.runtime.pass_budget import free_memory
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.estimates.memory import memory_need
from rankfleet.evaluate.kept_scores import KeptScores
from rankfleet.evaluate.rankers import TOKEN_CACHE_BYTES, EngineRanker


class LoadedTiers:
    """rankers: of the tiers. dtypes: in which each computes, by tier. threads: with which the queries are scored that
    are timed. together: whether all are in memory at the same time; else each is loaded anew for each list of
    questions."""

    def __init__(
        self, fleet: FleetConfig, names: Sequence[str], dtype: str | None, threads: int | None, kept: KeptScores
    ) -> None:
        """dtype, threads: None for those of the tier's group. Raises CheckpointError."""
        self._fleet, self._threads = fleet, threads
        self.threads = max(map(self._own_threads, names))
        self._asked = {name: dtype or fleet.groups[fleet.group_of(name)].dtype for name in names}
        self.dtypes: dict[str, str] = {}
        self.together = self._fits(names)
        self.rankers: list[EngineRanker] = []
        tokens = TokenCache(TOKEN_CACHE_BYTES)
        for name in names:
            first = self._load(name)
            self.dtypes[name] = first.scorer.dtype
            load = (lambda held=first: held) if self.together else functools.partial(self._load, name)
            weights = find_checkpoint(fleet.tiers[name].model, fleet.tiers[name].revision).weights_digest
            cut = fleet.tiers[name].max_tokens or "all"
            identity = f"weights {weights}, {self.dtypes[name]}, {cut} tokens"
            use_threads = functools.partial(self._use_threads, name)
            replicas = 1.0 if torch.cuda.is_available() else self._all_threads(name) / self._own_threads(name)
            self.rankers.append(EngineRanker(name, identity, load, tokens, kept.timed(name), use_threads, replicas))

    def _fits(self, names: Sequence[str]) -> bool:
        on_gpu = torch.cuda.is_available()
        sizes = {}
        for name in names:
            tier = self._fleet.tiers[name]
            checkpoint = find_checkpoint(tier.model, tier.revision)
            sizes[name] = model_size(checkpoint, self._asked[name], tier.max_tokens, on_gpu)
        widest = "float32" if "float32" in self._asked.values() else "auto"
        return memory_need(sizes, widest, 0).total < free_memory(torch.device("cuda" if on_gpu else "cpu")) / 2

    def _load(self, name: str) -> Reranker:
        tier = self._fleet.tiers[name]
        self._use_threads(name, alone=True)
        dtype = self.dtypes.get(name, self._asked[name])
        loaded = Reranker.load(find_checkpoint(tier.model, tier.revision), dtype, max_tokens=tier.max_tokens)
        loaded.score("warm up", ["a first batch"])
        return loaded

    def _use_threads(self, name: str, alone: bool) -> None:
        torch.set_num_threads(self._own_threads(name) if alone else self._all_threads(name))

    def _own_threads(self, name: str) -> int:
        return self._threads or self._fleet.groups[self._fleet.group_of(name)].threads

    def _all_threads(self, name: str) -> int:
        return self._threads or max(self._own_threads(name), usable_cpus())
