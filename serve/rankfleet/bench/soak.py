"""`rankfleet bench soak`: the memory of each process of a fleet that is kept busy."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankfleet.bench.fault_fleet import BreakableFleet
from rankfleet.bench.fault_traffic import MIXED, BenchLoad, FaultTraffic
from rankfleet.bench.outcomes import reply_counts

WARM_S = 300.0  # growth counts from here on, or from a third of the run where that is shorter
SAMPLE_S = 5.0
WINDOW_S = 60.0  # growth is between the means of the first and last window; at most a fifth of the time that counts


@dataclass
class MemorySamples:
    """Resident bytes of each process over time."""

    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def sample(self, now_s: float, processes: Mapping[str, Sequence[int]]) -> None:
        for name, pids in processes.items():
            for pid in pids:
                if (resident := resident_bytes(pid)) is not None:
                    self.samples.setdefault(f"{name} {pid}", []).append((now_s, resident))

    def growth(self, from_s: float, until_s: float) -> dict[str, Any]:
        """MiB at the beginning and at the end, and the growth, of each process that ran all the time."""
        window_s = min(WINDOW_S, (until_s - from_s) / 5)

        def mean(samples: Sequence[tuple[float, int]], start_s: float) -> float:
            inside = [resident for at_s, resident in samples if start_s <= at_s <= start_s + window_s]
            return sum(inside) / len(inside) if inside else math.nan

        grown = {}
        for name, samples in sorted(self.samples.items()):
            first, last = mean(samples, from_s), mean(samples, until_s - window_s)
            if not math.isnan(first + last):
                grown[name] = {
                    "first_mib": round(first / 2**20, 1),
                    "last_mib": round(last / 2**20, 1),
                    "growth": round(last / first - 1, 4),
                }
        return grown


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None for one that has ended."""
    try:
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def soak(
    fleet: BreakableFleet, minutes: float, load: float, seed: int, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Keep a fleet busy and measure its memory. load: share of the fleet's capacity."""
    traffic, seconds = FaultTraffic(fleet.url, fleet.config), minutes * 60
    progress("measuring the capacity")
    sent = BenchLoad(traffic.capacity_per_s(MIXED), load, seconds, seed)
    planned = traffic.planned(sent.workload, sent.rate_per_s, seconds, seed)
    memory, started_s = MemorySamples(), time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(traffic.send, planned)
        while (now_s := time.perf_counter() - started_s) < seconds:
            memory.sample(now_s, fleet.processes())
            progress(f"{now_s / 60:.1f} of {minutes:g} minutes, {sent.rate_per_s:.1f} requests per second")
            time.sleep(SAMPLE_S)
        counts = reply_counts(replies.result())
    warm_s = min(WARM_S, seconds / 3)
    grown = memory.growth(warm_s, seconds)
    return {
        **counts,
        **sent.proportions,
        "minutes": minutes,
        "load": load,
        "warm_s": round(warm_s),
        "processes": grown,
        "max_growth": max((each["growth"] for each in grown.values()), default=None),
    }
