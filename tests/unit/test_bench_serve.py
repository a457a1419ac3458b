"""The load that `rankfleet bench serve` sends, and the figures that it computes from the replies."""

import numpy as np
import orjson
import pytest

from rankfleet.bench.saturation import rate
from rankfleet.bench.serve import for_tier, load_summary
from rankfleet.bench.traffic import Call, Reply, calls
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

WORKLOAD = Workload(
    classes={"fast": RequestClass(slo_ms=50, share=1), "any": RequestClass(slo_ms=None, share=1)},
    candidates=[Candidates(count=2, share=1), Candidates(count=3, share=1)],
    tokens=40,
)


def words(text: str) -> int:
    return len(text.split())


def test_each_request_has_a_body() -> None:
    requests = Requests(np.array([0.5, 1.25]), np.array([0, 1]), np.array([2, 3]))
    made = calls(requests, WORKLOAD, words, special=3, seed=1)
    assert [(call.at_s, call.kind, call.budget_ms) for call in made] == [(0.5, 0, 50), (1.25, 1, None)]
    bodies = [orjson.loads(call.body) for call in made]
    assert [len(body["documents"]) for body in bodies] == [2, 3]
    assert [body["slo_ms"] for body in bodies] == [50, None]
    assert made == calls(requests, WORKLOAD, words, special=3, seed=1), "the same seed gives the same texts"


def test_documents_have_the_mean_length_asked_for() -> None:
    requests = Requests(np.zeros(200), np.zeros(200, dtype=int), np.full(200, 3))
    bodies = [orjson.loads(call.body) for call in calls(requests, WORKLOAD, words, special=3, seed=1)]
    lengths = [words(body["query"]) + words(document) + 3 for body in bodies for document in body["documents"]]
    assert np.mean(lengths) == pytest.approx(40, rel=0.05)
    assert (min(lengths), max(lengths)) == (pytest.approx(20, abs=1), pytest.approx(60, abs=1))


def test_only_scored_answers_within_the_budget_are_in_time() -> None:
    fast, free = Call(0, 0, 50.0, b""), Call(0, 1, None, b"")
    replies = [
        Reply(fast, 200, 30.0, "small", 0.3, True),
        Reply(fast, 200, 51.0, "small", 0.3, True),  # late
        Reply(fast, 200, 20.0, "none", 0.0, False),  # nothing was scored
        Reply(fast, 429, 2.0),
        Reply(fast, 0, 99.0),  # no answer came
        Reply(free, 200, 900.0, "large", 0.5, True),
    ]
    shown = load_summary(replies, ["fast", "any"], retriever=0.2)
    assert shown["attainment"] == pytest.approx(2 / 6, abs=1e-5)
    assert shown["mean_quality"] == pytest.approx((0.3 + 4 * 0.2 + 0.5) / 6, abs=1e-5)
    counts = ("ok", "refused", "given_up", "late", "failed")
    assert [shown[key] for key in counts] == [4, 1, 1, 1, 1]
    assert [shown["classes"]["fast"][key] for key in counts] == [3, 1, 1, 1, 1]
    assert shown["tiers"] == {"large": pytest.approx(1 / 6, abs=1e-5), "small": pytest.approx(1 / 6, abs=1e-5)}


def test_the_rate_at_saturation_counts_while_all_clients_send() -> None:
    # Eight clients: the first seven and the last eight answers are left out. A tenth of a second lies between others.
    call = Call(0, 0, None, b"")
    replies = [Reply(call, 200, 1.0, scored=True, done_s=50 + i / 10) for i in range(26)]
    replies[3] = Reply(call, 0, 1.0)  # no answer at all
    assert rate(replies[::-1], documents=20) == pytest.approx(200)
    assert rate(replies[:10], documents=20) == 0.0


def test_a_call_for_a_tier_names_it() -> None:
    call = Call(1.5, 2, None, b'{"query":"a","documents":["b"]}')
    named = for_tier(call, "large")
    assert orjson.loads(named.body) == {"query": "a", "documents": ["b"], "model": "large"}
    assert (named.at_s, named.kind) == (1.5, 2)
