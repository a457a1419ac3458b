"""The overload scenario, with fleets that answer so many requests per second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from rankfleet.bench.fault_traffic import FaultTraffic, RequestMix
from rankfleet.bench.overload import overload
from rankfleet.bench.traffic import Call, Reply
from rankfleet.simulate.workload import Workload


@dataclass
class EvenTraffic(FaultTraffic):
    """Requests come at even distances. Of each second, so many are answered in 50 ms, and the others refused in
    4 ms, of which the server counts 1. sent: rates and lengths of all loads."""

    answered_per_s: int
    took_ms: float = 50.0
    sent: list[tuple[float, float]] = field(default_factory=list)

    def capacity_per_s(self, mix: RequestMix, tier: str | None = None) -> float:
        assert tier == "small"
        return 20.0

    def planned(
        self, workload: Workload, rate_per_s: float, seconds: float, seed: int, fields: Mapping[str, Any] = {}
    ) -> list[Call]:
        assert (fields, rate_per_s > 0) == ({"slo_class": "strict"}, True)
        self.sent.append((round(rate_per_s, 2), seconds))
        budget_ms = workload.classes["tight"].slo_ms
        return [Call(i / rate_per_s, 0, budget_ms, b"") for i in range(round(rate_per_s * seconds))]

    def send(self, planned: Sequence[Call]) -> list[Reply]:
        replies, answered = [], dict[int, int]()
        for call in planned:
            second = int(call.at_s)
            answered[second] = answered.get(second, 0) + 1
            if answered[second] <= self.answered_per_s:
                replies.append(Reply(call, 200, self.took_ms, scored=True, server_ms=40.0))
            else:
                replies.append(Reply(call, 429, 4.0, server_ms=1.0, error="no tier fits"))
        return replies


def ignore(text: str) -> None:
    """Progress that nobody reads."""


def test_the_peak_of_goodput_is_found_and_five_times_as_much_is_sent() -> None:
    traffic = EvenTraffic(answered_per_s=22)
    figures = overload(traffic, "small", 60.0, 1, ignore)
    assert figures["budgets_ms"] == {"tight": 600.0}  # 1.5 times 8 / 20 s
    assert figures["goodput_by_rate_per_s"] == {15.0: 15.0, 18.75: 18.8, 23.44: 22.0, 29.3: 22.0}
    assert (figures["peak_goodput_per_s"], figures["rate_per_s"]) == (22.0, 110.0)
    assert traffic.sent[-4:] == [(23.44, 20.0), (11.0, 10.0), (110.0, 20.0), (11.0, 10.0)]
    assert (figures["requests"], figures["ok"], figures["refused"], figures["failed"]) == (2200, 440, 1760, 0)
    assert (figures["goodput_per_s"], figures["goodput_share"]) == (22.0, 1.0)
    assert (figures["refused_p99_ms"], figures["refused_server_p99_ms"], figures["given_up"]) == (4.0, 1.0, 0)
    assert (figures["calm_p99_ms"], figures["normal_again_s"], figures["after"]["ok"]) == (50.0, 0.0, 110)


@pytest.mark.parametrize(("answered_per_s", "took_ms"), [(0, 50.0), (22, 5000.0)])
def test_a_fleet_that_is_never_in_time_is_sent_five_times_its_capacity(answered_per_s: int, took_ms: float) -> None:
    figures = overload(EvenTraffic(answered_per_s, took_ms), "small", 60.0, 1, ignore)
    assert (figures["peak_goodput_per_s"], figures["rate_per_s"], figures["goodput_share"]) == (0.0, 100.0, None)
