"""The thread behind a writer sleeps, wakes, gathers, pauses longer and longer, and does its chores."""

from __future__ import annotations

import threading

import pytest

from papyra_otel.pipeline import worker as module
from papyra_otel.pipeline.worker import Worker


@pytest.fixture
def workers():
    made: list[Worker] = []

    def make(work, **options):
        made.append(Worker("test", work, jitter=lambda: 1.0, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()


class Steps:
    """Lets a worker's thread take one step after the other, and says what it did."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.done = threading.Semaphore(0)
        self.count = 0

    def __call__(self) -> bool:
        self.count += 1
        answer = self.answers.pop(0) if self.answers else True
        self.done.release()
        return answer

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.done.acquire(timeout=10)


def test_there_is_no_thread_before_the_first_wake(workers):
    assert workers(Steps())._thread is None


def test_waking_an_awake_worker_sets_nothing(workers):
    """On an actor's path the event is touched once for each time the worker works, not for each fact."""
    worker = workers(Steps(), gather_seconds=60)
    sets = 0
    original = worker._wanted.set

    def counted():
        nonlocal sets
        sets += 1
        original()

    worker._wanted.set = counted
    for _ in range(1000):
        worker.wake()
    assert sets == 1
    worker._wanted.set = original


def test_every_wake_is_followed_by_work(workers):
    steps = Steps()
    worker = workers(steps, gather_seconds=0)
    for _ in range(200):
        worker.wake()
        steps.wait()
        assert steps.count >= 1
        while steps.done.acquire(blocking=False):
            pass


def test_work_that_is_not_done_is_tried_again_by_itself(workers, monkeypatch):
    pauses = []
    steps = Steps(False, False, False)
    worker = workers(steps, gather_seconds=0)
    monkeypatch.setattr(worker._ended, "wait", lambda seconds=None: pauses.append(seconds))
    worker.wake()
    steps.wait(4)
    assert [seconds for seconds in pauses if seconds] == [0.1, 0.2, 0.4]


def test_pauses_have_an_end_and_begin_small_again(workers):
    worker = workers(Steps())
    longest = [worker._next_pause_seconds() for _ in range(20)][-1]
    assert longest == module._LONGEST_PAUSE_SECONDS
    assert worker._worked()
    assert worker._next_pause_seconds() == 0.1


def test_a_failure_is_told_and_is_not_the_end(workers, caplog):
    done = threading.Event()

    def work():
        if not done.is_set():
            done.set()
            raise ValueError("odd")
        return True

    steps = Steps()
    worker = workers(lambda: work() and steps(), gather_seconds=0)
    worker.wake()
    steps.wait()
    assert "goes on after a failure" in caplog.text


def test_chores_are_done_by_the_clock(workers):
    steps, chores = Steps(), Steps()
    now = 0.0
    worker = workers(steps, chore=chores, chore_seconds=30, gather_seconds=0, ticks=lambda: now)
    worker.wake()
    steps.wait()
    assert chores.count == 0
    now = 31.0
    worker.wake()
    chores.wait()
    assert chores.count == 1
    assert worker._until_chore() > 0


def test_a_failed_chore_is_told(workers, caplog):
    told = threading.Event()

    def chore():
        told.set()
        raise ValueError("odd")

    steps = Steps()
    worker = workers(steps, chore=chore, chore_seconds=0, gather_seconds=0)
    worker.wake()
    assert told.wait(10)
    worker.wake()
    steps.wait(1)
    worker.stop()


def test_a_thread_that_cannot_be_started_is_tried_again(workers, monkeypatch):
    steps = Steps()
    worker = workers(steps, gather_seconds=0)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        worker.wake()
        assert worker._thread is None
    worker.wake()
    steps.wait()


def test_a_stopped_worker_works_no_more(workers):
    steps = Steps()
    worker = workers(steps, gather_seconds=0)
    worker.wake()
    steps.wait()
    thread = worker._thread
    worker.stop()
    thread.join(10)
    worker.wake()
    assert worker._thread is None
    assert steps.count == 1
