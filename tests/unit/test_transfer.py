"""The time of chunks between router and replica."""

import pytest

from rankfleet.estimates.transfer import TransferMeter, Transfers
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from tests.unit.fakes import fleet


def test_nothing_is_assumed_before_the_first_chunk() -> None:
    assert TransferMeter().ms(100.0) == 0.0


def test_the_first_slow_calls_do_not_count() -> None:
    meter = TransferMeter()
    for ms in (200.0, 5.0, 4.0):
        meter.took(ms, 0.0, 0.0)
    assert meter.ms(0.0) == pytest.approx(5.0)


def test_one_chunk_in_fifty_may_take_longer() -> None:
    meter = TransferMeter()
    for ms in range(1, 102):  # the last 64 are 38 … 101
        meter.took(float(ms), 0.0, 0.0)
    assert meter.ms(0.0) == pytest.approx(99.0)


def test_a_router_that_sends_nothing_finds_out_that_it_is_fast_again() -> None:
    meter = TransferMeter()
    meter.took(400.0, 10.0, 10.0)
    assert meter.ms(40.0) == pytest.approx(200.0)
    assert meter.ms(100.0) == pytest.approx(50.0)


def test_slow_chunks_are_not_remembered_because_few_have_come_since() -> None:
    meter = TransferMeter()
    for ms in [4.0] * 40 + [100.0] * 24:
        meter.took(ms, 0.0, 0.0)
    assert meter.ms(0.0) == pytest.approx(100.0)
    for now_s in (5.0, 10.0, 20.0):  # the estimate was above most budgets, so that hardly anything was sent
        meter.took(4.0, now_s, now_s)
    assert meter.ms(20.0) == pytest.approx(4 + 96 / 4)


def test_chunks_that_one_thing_has_held_up_are_one_sample() -> None:
    meter = TransferMeter()
    for number in range(60):
        meter.took(4.0, number, number + 0.004)
    for sent_s in (60.0, 60.1, 60.2, 60.3):  # the router was held up until 60.4
        meter.took((60.4 - sent_s) * 1e3, sent_s, 60.4)
    meter.took(4.0, 60.4, 60.404)
    assert meter.ms(60.404) == pytest.approx(4.0)


@pytest.mark.parametrize("pause_s", [0.01, 1.0, 60.0])
def test_chunks_that_all_take_the_same_keep_the_estimate_at_that(pause_s: float) -> None:
    meter = TransferMeter()
    for number in range(70):
        meter.took(4.0, number * pause_s, number * pause_s)
        assert meter.ms(number * pause_s) == 4.0


def test_clocks_of_two_machines_may_make_it_negative() -> None:
    meter = TransferMeter()
    meter.took(-0.5, 0.0, 0.0)
    assert meter.ms(0.0) == 0.0


def test_what_a_crowd_took_says_nothing_about_a_request_that_comes_alone() -> None:
    view = FleetView(fleet(network_ms=3), {"demo": Ledger()})
    view.transfers.took(4.0, others=0, sent_s=0.0, now_s=0.0)
    view.transfers.took(900.0, others=150, sent_s=0.0, now_s=0.0)
    assert (view.transfer_ms(0.0), view.beside_ms(0.0), view.snapshot(0.0).transfer_ms) == pytest.approx((4, 7, 4))
    assert view.transfer_ms(0.0, others=127) == pytest.approx(4.0)
    assert view.transfer_ms(0.0, others=128) == pytest.approx(900.0)
    assert view.beside_ms(0.0, others=999) == pytest.approx(903.0), "of more there is no sample yet"


def test_more_requests_at_once_are_not_expected_to_take_less() -> None:
    transfers = Transfers()
    transfers.took(4.0, others=5, sent_s=0.0, now_s=0.0)
    transfers.took(20.0, others=0, sent_s=0.0, now_s=0.0)
    assert (transfers.ms(0, 0.0), transfers.ms(5, 0.0)) == pytest.approx((20.0, 20.0))


def test_requests_are_counted_while_they_are_on_the_way() -> None:
    transfers = Transfers()
    with transfers.request(), transfers.request():
        assert transfers.requests == 2
    with pytest.raises(ZeroDivisionError), transfers.request():
        transfers.requests //= 0
    assert transfers.requests == 0
