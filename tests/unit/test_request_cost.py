"""What a request costs beside queue and engine: measured, in a profile, and in the simulator."""

import json
from pathlib import Path

import numpy as np
import pytest

from rankfleet.bench.intervals import block_interval
from rankfleet.bench.request_cost import fit
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import profile_json, read_profile, read_request_cost
from rankfleet.estimates.request_cost import RequestCost
from rankfleet.simulate.core import Core
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.run import GIVEN_UP, IN_TIME, LATE, Outcome, Simulation
from rankfleet.simulate.workload import Requests, Workload
from tests.unit.fakes import fleet

MODELS = {name: LatencyModel(20.0, 0.0, 0.0) for name in ("small", "medium", "large")}
WORKLOAD = Workload.model_validate(
    {"classes": {"one": {"slo_ms": 100, "share": 1}}, "candidates": [{"count": 10, "share": 1}], "tokens": 10}
)
COST = RequestCost(request_ms=2.0, document_ms=0.1, reply_ms=1.0, hop_ms=4.0)  # ten documents: 3 ms, 4 ms, 1 ms


def simulate(*arrived_ms: float, cost: RequestCost | None = COST, replicas: int = 1) -> Outcome:
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": replicas, "max": replicas}}
    config = fleet(groups={"demo": group}, network_ms=8.0)
    n = len(arrived_ms)
    requests = Requests(np.array(arrived_ms) / 1e3, np.zeros(n, dtype=int), np.full(n, 10))
    policy = policy_of("static:small", config, MODELS)
    return Simulation(config, MODELS, WORKLOAD, policy, seed=1, cost=cost).run(requests)


def test_the_core_does_one_piece_of_work_at_a_time() -> None:
    core = Core()
    assert core.occupy(2.0, now_s=1.0) == pytest.approx((1.0, 1.002))
    assert core.occupy(3.0, now_s=1.001) == pytest.approx((1.002, 1.005)), "it waits for the first"
    assert core.occupy(1.0, now_s=2.0) == pytest.approx((2.0, 2.001))
    assert core.occupy(0.0, now_s=2.0) == (2.0, 2.0), "nothing to do"


def test_a_request_alone_takes_its_cost_and_the_engines_time() -> None:
    assert simulate(0).took_ms.tolist() == pytest.approx([28]), "3 before, 2 there, 20 in the engine, 2 back, 1 after"


def test_requests_wait_for_the_core_and_the_client_counts_the_wait() -> None:
    # Two replicas, so that they do not wait for the engine. The core is with the first until 3 ms and sends its chunk
    # until 5; the second, due at 4 ms, is with it until 8 and sent until 10. Its scores are there at 30, back at 32,
    # and replied at 33.
    assert simulate(0, 4, replicas=2).took_ms.tolist() == pytest.approx([28, 29])


def test_a_router_counts_from_when_it_begins_with_a_request() -> None:
    # The router is with the first until 45 ms, with the second until 90, which the engine scores until 110: within
    # 100 ms of when the router began with it, but late for its client. Had the router counted from 0 ms, it would have
    # given it up.
    outcome = simulate(0, 0, cost=RequestCost(request_ms=45.0), replicas=2)
    assert outcome.took_ms.tolist() == pytest.approx([65, 110])
    assert outcome.state.tolist() == [IN_TIME, LATE]


def test_without_a_measured_cost_network_ms_is_the_way_to_the_router() -> None:
    outcome = simulate(0, 0, cost=None, replicas=2)  # 8 ms by the fleet file
    assert outcome.took_ms.tolist() == pytest.approx([28, 28])
    # The router counts from 85 ms, when it gets the request, and allows for 8: it is late for its client.
    late = simulate(0, cost=RequestCost(delay_ms=85.0))
    assert (late.state.tolist(), late.took_ms.tolist()) == ([LATE], pytest.approx([105]))


def test_the_router_learns_how_long_the_way_to_the_replica_is() -> None:
    # 8 + 60 + 20 ms are in time.
    near = simulate(0, 500, cost=RequestCost(hop_ms=60.0))
    assert (near.state.tolist(), near.took_ms.tolist()) == ([IN_TIME] * 2, pytest.approx([80, 80]))
    far = simulate(0, 500, cost=RequestCost(hop_ms=80.0))
    assert (far.state.tolist(), far.gpu_s) == ([IN_TIME, GIVEN_UP], 0.02), "with 8 ms to the client it would be late"


def test_the_way_to_the_replica_is_what_is_left_of_the_total() -> None:
    assert COST.rest_of(9.0, documents=10) == pytest.approx(5.0)
    assert COST.rest_of(2.0) == 0.0
    assert RequestCost().rest_of(3.0) == 3.0


def test_a_profile_keeps_the_cost_but_for_the_hop(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile_json(MODELS, {}, COST)))
    assert read_request_cost(path) == RequestCost(2.0, 0.1, 1.0)
    assert read_profile(path) == MODELS
    path.write_text(json.dumps(profile_json(MODELS, {})))
    assert read_request_cost(path) == RequestCost(), "older profiles have none"
    path.write_text(json.dumps({"tiers": {}, "request": {"request_ms": -1, "document_ms": 0, "reply_ms": 0}}))
    with pytest.raises(ConfigError, match="measure it anew"):
        read_request_cost(path)


def test_the_cost_is_fitted_to_the_median_of_each_size() -> None:
    taken = [(1, 2.5, 1.0), (1, 2.5, 1.0), (1, 90.0, 40.0), (11, 3.5, 1.2), (21, 4.5, 1.4)]
    cost = fit(taken)  # a tenth of a millisecond per document from 2.4 ms on
    assert (cost.request_ms, cost.document_ms, cost.reply_ms) == pytest.approx((2.4, 0.1, 1.2))


def test_the_interval_draws_whole_blocks() -> None:
    blocks = np.array([0, 0, 7, 7])
    # Two blocks with means of 0 and 1: a fourth of the draws has the first twice, another one the second.
    assert block_interval(np.array([0.0, 0.0, 1.0, 1.0]), blocks) == (0.0, 1.0)
    assert block_interval(np.array([0.0, 1.0, 0.0, 1.0]), blocks) == (0.5, 0.5)
