"""Where the time of a request goes, step by step."""

import os
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Names the steady clock that `time.perf_counter` reads, beside an instant of it: on Linux, all processes of a machine
# share one from its start on. Instants of another clock mean nothing.
CLOCK = BOOT_ID.read_bytes().strip() if BOOT_ID.exists() else os.urandom(16)

# What a request's time goes to: a router takes it up, reads and checks it; a search retrieves documents; texts become
# token ids; the plan is chosen; chunks go to replicas and their scores come back; the slowest chunk waits in a
# replica's queue, and is on the device; the reply is made. The stages of a cascade add up.
STEPS = ("read", "retrieve", "tokenize", "plan", "transfer", "queue", "infer", "reply")


class Timing:
    """Where the time of a request went. The steps follow one another, so that they add up to the total.

    started_s: when the request arrived, on the router's clock. ms: by step; `retrieve` only of a search.
    """

    def __init__(self, started_s: float = 0.0) -> None:
        self.started_s = self._until_s = started_s
        self.ms = {step: 0.0 for step in STEPS if step != "retrieve"}

    def ends(self, step: str, now_s: float) -> None:
        """The time since the step before ended went to this one."""
        self.ms[step] = self.ms.get(step, 0.0) + (now_s - self._until_s) * 1e3
        self._until_s = now_s

    def scored(self, queue_ms: float, infer_ms: float, now_s: float) -> None:
        """A stage is scored. What was neither queue nor device is the transfer."""
        self.ms["queue"] += queue_ms
        self.ms["infer"] += infer_ms
        self.ms["transfer"] -= queue_ms + infer_ms
        self.ends("transfer", now_s)

    @property
    def total_ms(self) -> float:
        """From arrival to the end of the last step."""
        return (self._until_s - self.started_s) * 1e3
