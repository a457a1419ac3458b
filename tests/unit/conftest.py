"""Unit tests run in memory: starting Ray or sleeping is a mistake in the test."""

import time

import pytest
import ray


@pytest.fixture(autouse=True)
def _no_ray_no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a unit test may not start Ray or sleep")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(time, "sleep", refuse)
