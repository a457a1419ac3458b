"""The simulator: outcomes computed by hand, policies, arrivals, and the bound."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rankfleet.core.config import FleetConfig
from rankfleet.core.decisions import Plan
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.snapshot import FleetSnapshot
from rankfleet.simulate.inputs import requests_for, workload_named
from rankfleet.simulate.oracle import slices, upper_bound, work_done_s
from rankfleet.simulate.policies import Policy, fixed_plan, policy_of
from rankfleet.simulate.results import results
from rankfleet.simulate.run import GIVEN_UP, IN_TIME, LATE, Outcome, Simulation
from rankfleet.simulate.scaling import scaler_of
from rankfleet.simulate.traces import from_process, from_trace
from rankfleet.simulate.workload import Requests, Workload, draw
from tests.unit.fakes import fleet

# A token takes 0.1, 0.4 and 1.6 ms; pairs have ten tokens: 1, 4 and 16 ms a pair.
MODELS = {name: LatencyModel(0.0, ms, 0.0) for name, ms in (("small", 0.1), ("medium", 0.4), ("large", 1.6))}
WORKLOAD = Workload.model_validate(
    {"classes": {"one": {"slo_ms": 100, "share": 1}}, "candidates": [{"count": 10, "share": 1}], "tokens": 10}
)


def one_group(replicas: int = 1, **changes: object) -> FleetConfig:
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": replicas, "max": replicas}}
    return fleet(groups={"demo": group}, network_ms=0, candidates="ranked", quality={"retriever": 0.1}, **changes)


def changed(**one: object) -> Workload:
    """The workload with other settings of its class."""
    classes = {"one": {"slo_ms": 100, "share": 1} | one}
    return Workload.model_validate({**WORKLOAD.model_dump(), "classes": classes})


def requests_at(*arrived_ms: float, pairs: int = 10) -> Requests:
    n = len(arrived_ms)
    return Requests(np.array(arrived_ms) / 1e3, np.zeros(n, dtype=int), np.full(n, pairs))


def simulate(policy: str, requests: Requests, config: FleetConfig, workload: Workload = WORKLOAD) -> Outcome:
    return Simulation(config, MODELS, workload, policy_of(policy, config, MODELS), seed=1).run(requests)


def test_requests_that_wait_together_share_a_batch() -> None:
    # medium takes 40 ms: the first alone, the second and third (80 ms, from 40 on) together, by 120 ms.
    config = one_group()
    outcome = simulate("static:medium", requests_at(0, 20, 30), config)
    assert outcome.took_ms.tolist() == pytest.approx([40, 100, 90])
    assert outcome.gpu_s == pytest.approx(0.12)
    figures = results(outcome, requests_at(0, 20, 30), config, WORKLOAD)
    assert (figures["attainment"], figures["mean_quality"]) == (1.0, 0.4)
    assert figures["batches"] == 2


def test_an_infeasible_request_is_given_up_and_counts_with_the_retrievers_quality() -> None:
    # large takes 160 ms of 100; medium 40: the third of three at once would end at 120.
    config = one_group()
    assert simulate("static:large", requests_at(0), config).gpu_s == 0.0
    three = requests_at(0, 0, 0)
    figures = results(simulate("static:medium", three, config), three, config, WORKLOAD)
    assert figures["given_up"] == 1
    assert figures["attainment"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["mean_quality"] == pytest.approx((0.4 + 0.4 + 0.1) / 3, abs=1e-5)
    assert figures["classes"]["one"]["requests"] == 3


def test_at_five_times_the_capacity_nine_tenths_of_it_are_answered_in_time_and_the_others_refused() -> None:
    # small takes 10 ms: a replica can answer 100 per second.
    requests = draw(
        WORKLOAD, from_process("poisson:rate=1000", 2.0, np.random.default_rng(1)), np.random.default_rng(1)
    )
    outcome = simulate("slo", requests, one_group(replicas=2))
    assert (outcome.state == IN_TIME).sum() >= 0.9 * 2 * 100 * 2.0
    assert (outcome.state == LATE).sum() == 0
    assert (outcome.state == GIVEN_UP).mean() <= 0.1, "nearly all of them at once"


def test_the_overhead_passes_before_a_chunk_reaches_its_queue() -> None:
    # 5 + 40 ms, in each of two replicas; with 44 allowed a request is given up at once.
    config = one_group(replicas=2).model_copy(update={"network_ms": 5.0})
    outcome = simulate("static:medium", requests_at(0, 0), config, changed(slo_ms=45))
    assert (outcome.took_ms.tolist(), outcome.state.tolist()) == (pytest.approx([45, 45]), [IN_TIME, IN_TIME])
    outcome = simulate("static:medium", requests_at(0), config, changed(slo_ms=44))
    assert (outcome.state.tolist(), outcome.gpu_s) == ([GIVEN_UP], 0.0)


def test_replicas_work_in_parallel() -> None:
    assert simulate("static:medium", requests_at(0, 0), one_group(replicas=2)).took_ms.tolist() == pytest.approx(
        [40, 40]
    )


def test_tiers_are_selected_late() -> None:
    # All three arrive while the first is on the device (40 ms, the best of 100): two more medium ones would end at
    # 120 ms, so that the second and third take small.
    outcome = simulate("slo", requests_at(0, 1, 2), one_group())
    assert outcome.tier.tolist() == [1, 0, 0]
    assert (outcome.took_ms < 100).all()


def test_a_request_larger_than_a_batch_is_spread_over_replicas() -> None:
    config = one_group(replicas=2)
    wide = requests_at(0, pairs=4000)  # 40,000 tokens, 4 s by small, above the 16,384 of a batch
    outcome = simulate("slo", wide, config, changed(slo_ms=3000))
    assert outcome.took_ms.tolist() == pytest.approx([2000])
    assert outcome.tier.tolist() == [0]


def test_a_request_whose_tier_is_fixed_is_spread_if_each_part_is_large_enough() -> None:
    # A part has at least 2,048 tokens: two of 4,100, and one of 4,090. Where the replica selects the tier, it gets all.
    config, roomy = one_group(replicas=2), changed(slo_ms=3000)
    assert simulate("static:small", requests_at(0, pairs=410), config, roomy).took_ms.tolist() == pytest.approx([205])
    assert simulate("static:small", requests_at(0, pairs=409), config, roomy).took_ms.tolist() == pytest.approx([409])
    late = simulate("slo", requests_at(0, pairs=410), config, roomy)
    assert (late.tier.tolist(), late.took_ms.tolist()) == ([1], pytest.approx([1640]))


def test_a_plan_that_leaves_candidates_out_counts_with_its_expected_quality() -> None:
    # 101 ms by small: the first 100 of 101 fit, and get that share of the gain over the retriever, 0.1 → 0.3.
    outcome = simulate("slo", requests_at(0, pairs=101), one_group(), changed(when_none_fits="degrade"))
    assert (outcome.state.tolist(), outcome.tier.tolist()) == ([IN_TIME], [0])
    assert outcome.took_ms.tolist() == pytest.approx([100])
    assert outcome.quality.tolist() == pytest.approx([0.1 + 0.2 * 100 / 101])


def with_cascade(folder: Path) -> FleetConfig:
    """Small on everything, then large on the best two: 10 + 32 ms for ten pairs, and better than medium's 40."""
    table = {"data_sets": {"mine": {"retriever": 0.1, "cascades": {"small>large": {"2": 0.45}}}}}
    (folder / "table.json").write_text(json.dumps(table))
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": 1, "max": 1}}
    quality = {"table": str(folder / "table.json")}
    return fleet(groups={"demo": group}, network_ms=0, candidates="ranked", quality=quality)


def test_a_second_stage_scores_the_best_of_the_first(tmp_path: Path) -> None:
    outcome = simulate("slo", requests_at(0), with_cascade(tmp_path))
    assert (outcome.tier.tolist(), outcome.quality.tolist(), outcome.batches) == ([2], [0.45], 2)
    assert outcome.took_ms.tolist() == pytest.approx([42])
    assert outcome.gpu_s == pytest.approx(0.042)


def test_missed_requests_count_with_the_quality_of_the_retriever_in_the_table(tmp_path: Path) -> None:
    config, short = with_cascade(tmp_path), changed(slo_ms=2)  # small takes 10 ms
    figures = results(simulate("slo", requests_at(0), config, short), requests_at(0), config, short)
    assert (figures["refused"], figures["mean_quality"]) == (1, 0.1)


def test_a_second_stage_is_cut_or_left_out_for_lack_of_time(tmp_path: Path) -> None:
    # First stages run from 0 to 10 and from 10 to 20 ms. The second stage of the first request would have to begin by
    # 18; the timer for that fires 0.1 ms later, and the answer of small stays. That of the second request has 31 ms of
    # the 32 for two candidates, so that it scores one, in 16. The table gives no gain for that.
    outcome = simulate("slo", requests_at(0, 1), with_cascade(tmp_path), changed(slo_ms=50))
    assert (outcome.tier.tolist(), outcome.quality.tolist()) == ([0, 2], [0.3, 0.3])
    assert outcome.took_ms.tolist() == pytest.approx([18.1, 35])


def test_batches_spread_as_profiled_and_latency_models_follow() -> None:
    # 10 ms at the median, 15 + 5 at the 99th percentile, every 20 ms: hardly any request waits.
    seen = list[tuple[float, LatencyModel | None]]()

    def decide(request: PlanRequest, snapshot: FleetSnapshot, now_s: float) -> Plan:
        seen.append((now_s, snapshot.tiers[0].latency))
        return fixed_plan(("small",), request, snapshot)

    profiled = {name: replace(model, p99_factor=1.5) for name, model in MODELS.items()}
    requests = requests_at(*range(0, 40_000, 20))
    outcome = Simulation(one_group(), profiled, WORKLOAD, Policy("watch", decide), seed=1).run(requests)
    assert np.quantile(outcome.took_ms, [0.5, 0.99]) == pytest.approx([10, 20], rel=0.05)
    assert {model for now_s, model in seen if now_s < 2} == {profiled["small"]}
    corrected = {model for now_s, model in seen if now_s > 2 and model is not None}
    assert len(corrected) == 19, "the router asks every two seconds"
    assert profiled["small"] not in corrected
    assert np.mean([model.beta_ms for model in corrected]) == pytest.approx(0.1, rel=0.05)
    assert np.mean([model.p99_factor for model in corrected]) == pytest.approx(1.5, rel=0.05)


def test_an_error_in_a_decision_ends_the_simulation() -> None:
    def decide(request: PlanRequest, snapshot: FleetSnapshot, now_s: float) -> Plan:
        raise ValueError("no decision")

    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no decision"))):
        Simulation(one_group(), MODELS, WORKLOAD, Policy("broken", decide), seed=1).run(requests_at(0, 1))


def test_a_refused_request_costs_no_device_time() -> None:
    outcome = simulate("slo", requests_at(0, pairs=101), one_group())  # 101 ms by small
    figures = results(outcome, requests_at(0, pairs=101), one_group(), WORKLOAD)
    assert (figures["refused"], figures["gpu_seconds"]) == (1, 0.0)


def test_the_table_policy_uses_a_share_of_the_budget() -> None:
    assert simulate("table:0.4", requests_at(0), one_group()).tier.tolist() == [1]
    assert simulate("table:0.39", requests_at(0), one_group()).tier.tolist() == [0]


def test_slackfit_takes_the_slowest_bucket_that_is_in_time() -> None:
    assert simulate("slackfit", requests_at(0), one_group()).tier.tolist() == [1]


def test_groups_grow_under_load_with_a_scaler() -> None:
    config = fleet(
        groups={"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 1, "max": 4}}},
        autoscaling={"start_s": 1.0},
    )
    steady = requests_at(*range(0, 20_000, 5))
    policy = policy_of("slo", config, MODELS)
    scaler = scaler_of("need", config, MODELS, [100.0])
    scaled = Simulation(config, MODELS, WORKLOAD, policy, 1, scaler, start_s=1.0).run(steady)
    # 20 s at one replica would be 20 replica seconds.
    assert 40 < scaled.replica_s <= 82
    assert (scaled.state == IN_TIME).mean() > 0.8


def test_the_same_seed_gives_the_same_figures() -> None:
    runs = []
    for _ in range(2):
        requests = requests_for(WORKLOAD, None, 1.0, "gamma:rate=40,cv=4", 20.0, seed=7)
        runs.append(results(simulate("slo", requests, one_group()), requests, one_group(), WORKLOAD))
    assert runs[0] == runs[1]
    assert sum(runs[0]["over_time"]["requests"]) == runs[0]["requests"]


@pytest.mark.parametrize("spec", ["static:huge", "table:none", "table:0", "best", ""])
def test_a_policy_that_does_not_exist_is_refused_by_name(spec: str) -> None:
    with pytest.raises(ConfigError, match="does not exist; write slo"):
        policy_of(spec, one_group(), MODELS)


def test_a_trace_has_counts_per_second(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("second,requests\n0,2\n1,0\n2,3\n")
    times = from_trace(trace, 10.0, np.random.default_rng(1))
    assert np.floor(times).astype(int).tolist() == [0] * 20 + [2] * 30
    assert (np.diff(times) >= 0).all()
    halves = from_trace(trace, 0.5, np.random.default_rng(1))
    assert (halves < 1).sum() == 1
    assert (halves >= 2).sum() in (1, 2)


@pytest.mark.parametrize("content", ["", "second,requests\n", "a,b\n1,2\n", "second,requests\n0,x\n"])
def test_a_file_that_is_not_a_trace_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trace.csv").write_text(content)
    with pytest.raises(ConfigError, match="trace"):
        from_trace(tmp_path / "trace.csv", 1.0, np.random.default_rng(1))


def test_gamma_arrivals_have_their_rate_and_variation() -> None:
    times = from_process("gamma:rate=50,cv=2", 4000.0, np.random.default_rng(1))
    gaps = np.diff(times)
    assert 1 / gaps.mean() == pytest.approx(50, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(2, rel=0.02)
    assert times[-1] < 4000


@pytest.mark.parametrize("spec", ["gamma", "gamma:cv=4", "gamma:rate=0", "poisson:rate=5,cv=2", "gamma:rate=1,x=2"])
def test_arrivals_that_do_not_exist_are_refused_by_name(spec: str) -> None:
    with pytest.raises(ConfigError, match="are not understood; write gamma:rate=60,cv=4"):
        from_process(spec, 10.0, np.random.default_rng(1))


def test_requests_are_drawn_by_the_shares_of_the_workload() -> None:
    requests = draw(workload_named("mixed"), np.arange(100_000.0), np.random.default_rng(1))
    assert np.bincount(requests.kind) / 1e5 == pytest.approx([0.2, 0.4, 0.3, 0.1], abs=0.01)
    assert [float((requests.pairs == n).mean()) for n in (20, 50, 100)] == pytest.approx([0.3, 0.3, 0.4], abs=0.01)


def test_the_bound_schedules_by_deadline_and_preempts() -> None:
    def done(*jobs: tuple[float, float, float]) -> float:
        arrived, ends, work = (np.array(column) for column in zip(*jobs, strict=True))
        return work_done_s(arrived, ends, work)

    assert done((0, 1, 1), (0, 2, 1)) == pytest.approx(2)
    assert done((0, 1, 1), (0, 1, 1)) == pytest.approx(1)
    # The second preempts the first, which still ends at 4.
    assert done((0, 4, 3), (1, 2, 1)) == pytest.approx(4)
    assert done((0, 1, 5), (3, 4, 1)) == pytest.approx(2)


def test_gain_over_time_is_cut_into_slices_by_price() -> None:
    # Nothing → 0.2 in 10 ms → 0.3 in 40 → 0.4 in 160.
    assert [(round(p, 6), ms) for p, ms in slices([(0.2, 10), (0.3, 40), (0.4, 160)])] == [
        (0.02, 10),
        (round(0.1 / 30, 6), 30),
        (round(0.1 / 120, 6), 120),
    ]


def test_the_bound_of_one_request_is_the_work_that_fits() -> None:
    # Of 100 ms medium takes 40, and half of the way to large 60 more.
    figures = upper_bound(one_group(), MODELS, WORKLOAD, requests_at(0))
    assert figures == {"requests": 1, "attainment": 1.0, "mean_quality": pytest.approx(0.45)}


def test_no_policy_exceeds_the_bound() -> None:
    config = one_group(replicas=2)
    requests = requests_for(WORKLOAD, None, 1.0, "gamma:rate=60,cv=4", 30.0, seed=3)
    best = upper_bound(config, MODELS, WORKLOAD, requests)
    for policy in ("slo", "static:small", "static:medium", "slackfit"):
        figures = results(simulate(policy, requests, config), requests, config, WORKLOAD)
        assert figures["attainment"] <= best["attainment"]
        assert figures["mean_quality"] <= best["mean_quality"]


def test_the_shipped_profile_gives_the_published_rates() -> None:
    path = Path(__file__).parents[2] / "configs/profiles/h100-published.json"
    tiers = json.loads(path.read_text())["tiers"]
    rates = {name: round(1000 / (154 * tier["beta_ms"])) for name, tier in tiers.items()}
    assert rates == {"17m": 7517, "32m": 6602, "68m": 4913, "150m": 3237, "400m": 1738, "1b": 928}
