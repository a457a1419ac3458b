"""The time of chunks between router and replica."""

import pytest

from rankfleet.estimates.transfer import TransferMeter


def test_nothing_is_assumed_before_the_first_chunk() -> None:
    assert TransferMeter().ms(100.0) == 0.0


def test_the_first_slow_calls_do_not_count() -> None:
    meter = TransferMeter()
    for ms in (200.0, 5.0, 4.0):
        meter.took(ms, 0.0)
    assert meter.ms(0.0) == 5.0


def test_one_chunk_in_fifty_may_take_longer() -> None:
    meter = TransferMeter()
    for ms in range(1, 102):  # the last 64 are 38 … 101
        meter.took(float(ms), 0.0)
    assert meter.ms(0.0) == 99.0


def test_a_router_that_sends_nothing_finds_out_that_it_is_fast_again() -> None:
    meter = TransferMeter()
    meter.took(400.0, 10.0)
    assert meter.ms(40.0) == pytest.approx(200.0)
    assert meter.ms(100.0) == pytest.approx(50.0)


def test_clocks_of_two_machines_may_make_it_negative() -> None:
    meter = TransferMeter()
    meter.took(-0.5, 0.0)
    assert meter.ms(0.0) == 0.0
