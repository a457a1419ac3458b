"""The inputs of a simulation as a command line names them: workload and requests."""

from pathlib import Path

import numpy as np

from rankfleet.core.errors import ConfigError
from rankfleet.simulate.traces import FORMS, from_process, from_trace
from rankfleet.simulate.workload import Requests, Workload, draw, read_workload

SHIPPED = Path(__file__).parent.parent / "configs" / "workloads"


def workload_named(name: str) -> Workload:
    """The workload of this path or shipped name; a path goes first. Raises ConfigError."""
    shipped = SHIPPED / f"{name}.yaml"
    return read_workload(shipped if shipped.exists() and not Path(name).exists() else Path(name))


def requests_for(
    workload: Workload, trace: Path | None, rate_scale: float, arrivals: str | None, seconds: float | None, seed: int
) -> Requests:
    """Requests that arrive as in a trace or by a random process. The same seed gives the same requests.

    trace: CSV file, its counts multiplied by `rate_scale`; or None for `arrivals`, such as poisson:rate=60
    seconds: how long requests arrive; None for the whole trace, or the workload's `seconds`

    Raises ConfigError.
    """
    if (trace is None) == (arrivals is None):
        raise ConfigError(f"give either --trace FILE or --arrivals, which is {FORMS}")
    rng = np.random.default_rng(seed)
    if trace is not None:
        arrived_s = from_trace(trace, rate_scale, rng)
        arrived_s = arrived_s if seconds is None else arrived_s[arrived_s < seconds]
    else:
        assert arrivals is not None
        arrived_s = from_process(arrivals, seconds or workload.seconds, rng)
    if len(arrived_s) == 0:
        raise ConfigError("no request arrives; raise --rate-scale, the rate or --seconds")
    return draw(workload, arrived_s, rng)
