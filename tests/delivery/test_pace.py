"""How fast: not so fast that the program starves, and never slower than need be at the end."""

from __future__ import annotations

import pytest

from delivery.conftest import record
from papyra_otel.pipeline.delivery.deliverer import Pace


class Time:
    """A clock for this thread's work: each time somebody looks, a tenth of a second of work was done."""

    def __init__(self) -> None:
        self.worked = self.waited = 0.0

    def cpu(self) -> float:
        self.worked += 0.1
        return self.worked

    def ticks(self) -> float:
        return self.worked + self.waited

    def wait(self, seconds: float) -> bool:
        self.waited += seconds
        return False


@pytest.fixture
def paced(url, receiver, new_delivery):
    def deliver(pace: Pace) -> Time:
        record(url, range(2048))
        delivery = new_delivery(receiver, pace=pace)
        time = Time()
        deliverer = delivery.deliverer
        deliverer._cpu, deliverer._ticks, deliverer._wait = time.cpu, time.ticks, time.wait
        assert delivery.run() is True
        assert len(receiver.uids) == 2048
        return time

    return deliver


def test_a_share_of_one_core_is_what_it_takes(paced):
    time = paced(Pace(share=0.25))
    assert time.waited == pytest.approx(4 * 0.1 * 3)  # four batches, each of 0.1 s of work


def test_a_rate_is_kept(paced):
    time = paced(Pace(rate=512))
    assert 4 * 0.8 <= time.waited <= 4


def test_without_a_limit_nothing_is_waited_for(paced):
    assert paced(Pace()).waited == 0


def test_at_the_end_there_is_no_time_to_lose(url, receiver, new_delivery):
    record(url, range(1024))
    delivery = new_delivery(receiver, pace=Pace(share=0.01, rate=1))
    delivery.deliverer.end(60)
    assert delivery.run() is True
    assert delivery.waited == []
    assert len(receiver.uids) == 1024
