"""How many CPUs there are."""

import os


def usable_cpus() -> int:
    """CPUs that this process may use: in a container or under `taskset` fewer than the computer has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
