"""What a start waits for, as text: parts that run at the same time, and the line of a terminal."""

import pytest

from rankfleet.cli.states import States
from rankfleet.cluster.steps import Steps


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_parts_that_run_at_the_same_time_are_named_together() -> None:
    said: list[str] = []
    steps = Steps(said.append)
    steps.say("models", "checking")
    with steps.of("ray"):
        steps.say("models", "small")
        steps.say("models", None)
    with pytest.raises(OSError, match="no space"), steps.of("serve"):
        raise OSError("no space")
    with steps.of("router"):
        pass
    assert said == [
        "models: checking",
        "models: checking · ray: starting",
        "models: small · ray: starting",
        "ray: starting",
        "serve: starting",
        "router: starting",
    ]


def test_a_terminal_shows_what_each_part_took_and_what_is_waited_for() -> None:
    clock = Clock()
    states = States(clock)
    states.say("ray: starting")
    clock.now_s = 0.5
    states.say("models: checking · ray: starting")
    assert str(states.__rich__()) == "ray: starting, 0.5 s · models: checking, 0.0 s"
    clock.now_s = 2.0
    states.say("models: [small] · ray: starting")
    clock.now_s = 2.5
    states.say("router: loading · group small: loading")
    clock.now_s = 5.25
    states.say("group small: loading")
    clock.now_s = 6.0
    shown = "ray 2.5 s · models 2.0 s · router 2.8 s · group small: loading, 3.5 s"
    assert str(states.__rich__()) == shown


def test_a_part_that_is_named_again_goes_on_and_a_state_alone_is_forgotten() -> None:
    clock = Clock()
    states = States(clock)
    states.say("waiting for another fleet")
    clock.now_s = 1.0
    states.say("router: loading")
    clock.now_s = 2.0
    states.say("1 of 3 minutes")
    clock.now_s = 3.0
    states.say("router: loading again")
    clock.now_s = 4.0
    assert str(states.__rich__()) == "router: loading again, 3.0 s"
