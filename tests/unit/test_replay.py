"""`rankfleet plan --replay`: what it decides again, shows and refuses."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankfleet.cli
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.decision_log import line_of
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState
from tests.unit.fakes import arrivals_of

FLEET = FleetSnapshot(
    (
        TierState("small", 0.3, "demo", LatencyModel(0.0, 0.01, 0.0)),
        TierState("large", 0.5, "demo", LatencyModel(0.0, 0.16, 0.0)),
        TierState("huge", 0.6, "gpu", LatencyModel(0.0, 0.1, 0.0)),
    ),
    {
        "demo": GroupState(2, 0.03, ((12.0, 3.0), (20.0, 3.0)), arrivals=arrivals_of(200.0, 12.5), batch_tokens=4096),
        "gpu": GroupState(1, 0.0, asleep=True),
    },
    5.0,
)
LENGTHS = dict.fromkeys(("small", "large", "huge"), Lengths(np.full(10, 100)))
REQUEST = PlanRequest({tier: each.work for tier, each in LENGTHS.items()}, 1.0, 250.0, lengths=LENGTHS)


def line(request_id: str, request: PlanRequest = REQUEST, **changes: Any) -> bytes:
    """changes: of the decision, so that it is not the one that the planner makes"""
    return line_of(request_id, request, FLEET, 1.0031, replace(plan(request, FLEET, 1.0031), **changes)) + b"\n"


def replay(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    """Exit status, and what was written to standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["rankfleet", "plan", "--replay", str(path), *options])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        rankfleet.cli.main()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


EXPLAINED = """\
request r-2: 10 documents; 1,000 tokens; 3.1 ms after arrival; budget 250 ms; degrade if no plan fits
group  ready replicas  backlog ms  wait ms  chunks in flight  burst arrivals/s
demo   2               30.0        30.0     2                 12.5
gpu    asleep          0.0         20000.0  0                 0.0
plan   predicted p99 ms  nDCG@10  verdict
huge   20108.1           0.6000   too slow by 19859 ms
large  198.1             0.5000   would hold up those behind
small  48.1              0.3000   chosen
small is the best that fits: predicted 48 of 250 ms; too slow: huge; would hold up others: large
replayed: 2 of 2 decisions are the same as logged
"""


def test_all_are_decided_again_and_the_last_is_explained_by_what_the_router_knew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(line("r-1") + line("r-2"))
    status, shown, _ = replay(path, monkeypatch, capsys)
    assert status == 0
    assert "".join(f"{row.rstrip()}\n" for row in shown.splitlines()) == EXPLAINED
    assert EXPLAINED in (Path(__file__).parents[2] / "docs/operations.md").read_text()


def test_all_decisions_of_one_request_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    early = replace(REQUEST, lengths=None, budget_ms=20.0, when_none_fits="refuse", min_quality=0.25)
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(line("r-1", early) + line("r-1", replace(REQUEST, budget_ms=None)) + line("r-2", reason="a guess"))
    status, shown, _ = replay(path, monkeypatch, capsys, "--request", "r-1")
    assert status == 0
    assert (
        "request r-1: 10 documents; at least 1,000 tokens; 3.1 ms after arrival; budget 20 ms; refuse if no plan fits; "
        "min_quality 0.25\ndecided before tokenizing: only a refusal counts" in shown
    )
    assert "refused with 429, Retry-After 0.05 s" in shown
    assert "1,000 tokens; 3.1 ms after arrival; no budget; degrade if no plan fits\n" in shown
    assert "replayed: 2 of 2 decisions are the same as logged" in shown


def test_decisions_that_differ_are_counted_named_and_end_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(line("r-0") + b"".join(line(f"r-{i}", reason="a guess", quality=0.9) for i in range(1, 8)))
    status, shown, _ = replay(path, monkeypatch, capsys)
    assert status == 1
    assert "logged as Plan: a guess (other values of quality, reason)\n" in shown
    assert "replayed: 1 of 8 decisions are the same as logged\n" in shown
    assert "different: requests r-1, r-2, r-3, r-4, r-5 and 2 more\n" in shown


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        (b"", (), "decisions.jsonl has no decision"),
        (line("r-1"), ("--request", "r-9"), "decisions.jsonl has no decision for request r-9"),
        (line("r-1") + line("r-2")[:50], (), "decisions.jsonl: line 2 is not a logged decision"),
        (None, (), "decisions.jsonl: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused(
    content: bytes | None,
    options: tuple[str, ...],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "decisions.jsonl"
    if content is not None:
        path.write_bytes(content)
    status, shown, error = replay(path, monkeypatch, capsys, *options)
    assert (status, shown) == (1, "")
    assert why in error


def test_a_request_without_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rankfleet", "plan", "--request", "r-1"])
    with pytest.raises(SystemExit, match="1"):
        rankfleet.cli.main()
    assert "--request needs --replay FILE" in capsys.readouterr().err
