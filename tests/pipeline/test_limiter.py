"""A storm of like events: the first ones are forwarded, the rest is told in one summary. The log has all."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import _logs
from opentelemetry._logs import _internal as api
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.util._once import Once

import papyra_otel
from papyra_otel import Fact, FactKind, plugin
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.limiter import Limiter

NOW = 1_700_000_000_000_000_000


class Storm:
    def __init__(self, **options) -> None:
        self.now = 100.0
        self.counters = Counters()
        self.woken = 0
        self.limiter = Limiter(
            self.counters, self._wake, ticks=lambda: self.now, clock=lambda: NOW, **options
        )

    def _wake(self) -> None:
        self.woken += 1

    def passed(self, times: int, name: str = s.ACTOR_EXCEPTION, system: str = "shop", **attributes) -> int:
        named = {key.replace("_", "."): value for key, value in attributes.items()}
        return sum(
            self.limiter.passes(
                Fact(
                    kind=FactKind.EVENT,
                    name=name,
                    time_unix_nano=NOW + n * 500_000_000,
                    system=system,
                    attributes=named,
                )
            )
            for n in range(times)
        )

    @property
    def hidden(self) -> int:
        return dict(self.counters.read(s.EVENT_SUPPRESSED)).get(("limit",), 0)


@pytest.fixture
def storm() -> Storm:
    return Storm()


def test_the_first_ten_pass_and_the_rest_is_told_when_the_minute_is_over(storm):
    assert storm.passed(25, papyra_actor_type="T", exception_type="KeyError") == 10
    assert storm.hidden == storm.woken == 15
    storm.now += 59.9
    assert storm.limiter.summaries() == []
    storm.now += 0.1
    (summary,) = storm.limiter.summaries()
    assert summary.name == "papyra.event.suppressed"
    assert (summary.severity, summary.system, summary.uid) == ("WARN", "shop", None)
    assert summary.attributes == {
        s.SUPPRESSED_NAME: s.ACTOR_EXCEPTION,
        s.SUPPRESSED_COUNT: 15,
        s.SUPPRESSED_DURATION: 7.0,
        "papyra.actor.type": "T",
        "exception.type": "KeyError",
    }
    assert storm.limiter.summaries() == []
    assert storm.passed(11, papyra_actor_type="T", exception_type="KeyError") == 10


def test_what_is_not_alike_is_counted_apart(storm):
    for attributes in (
        {"papyra_actor_type": "A", "exception_type": "E"},
        {"papyra_actor_type": "B", "exception_type": "E"},
        {"papyra_actor_type": "A", "exception_type": "F"},
        {"papyra_actor_type": "A", "papyra_message_type": "E"},
        {"papyra_actor_type": "A"},
        {"system": "other"},
        {"name": s.ACTOR_STARTED},
        {},
    ):
        assert storm.passed(12, **attributes) == 10
    assert len(storm.limiter.summaries(whole=True)) == 8


def test_a_window_that_ends_with_the_next_event_is_told_too(storm):
    storm.passed(12)
    storm.now += 60
    assert storm.passed(12) == 10
    told = storm.limiter.summaries(whole=True)
    assert [fact.attributes[s.SUPPRESSED_COUNT] for fact in told] == [2, 2]


def test_what_a_setting_asks_for_passes(storm):
    assert storm.passed(100, name=s.MESSAGE_PROCESSED) == 100
    audit = Fact(kind=FactKind.AUDIT, name=s.AUDIT_COMPLETED, time_unix_nano=NOW, system="shop")
    assert all(storm.limiter.passes(audit) for _ in range(100))


def test_few_events_make_no_summary(storm):
    storm.passed(10)
    assert storm.woken == 0
    assert storm.limiter.summaries(whole=True) == []


def test_memory_is_bounded_whatever_comes():
    storm = Storm(likes_max=20)
    passed = sum(storm.passed(1, exception_type=f"E{n}") for n in range(1000))
    assert passed == 20 + 10
    for n in range(1000):
        storm.passed(1, system=f"s{n}")
    assert len(storm.limiter._windows) <= 40
    assert storm.hidden > 1900
    summary = storm.limiter.summaries(whole=True)[0]
    assert summary.attributes[s.ACTOR_TYPE] == "_OTHER"


def test_sorts_that_were_are_forgotten():
    storm = Storm(likes_max=20)
    for n in range(20):
        storm.passed(1, exception_type=f"E{n}")
    storm.now += 61
    assert storm.passed(12, exception_type="new") == 10
    (summary,) = storm.limiter.summaries(whole=True)
    assert summary.attributes[s.EXCEPTION_TYPE] == "new"


def test_threads_count_exactly(storm):
    threads = [threading.Thread(target=lambda: storm.passed(2000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (summary,) = storm.limiter.summaries(whole=True)
    assert summary.attributes[s.SUPPRESSED_COUNT] == storm.hidden == 7990


def test_a_recording_limits_what_it_forwards_and_tells_the_rest_at_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(api, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(api, "_LOGGER_PROVIDER_SET_ONCE", Once())
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)
    recording = papyra_otel.enable(f"file:{tmp_path}/facts", runtimes=())
    try:
        actor = papyra_otel.Actor(system="shop", type="T", address="shop/1")
        for n in range(30):
            recording.recorder.started(actor, incarnation=n)
    finally:
        plugin.disable()
    names = [each.log_record.event_name for each in exporter.get_finished_logs()]
    assert names.count(s.ACTOR_STARTED) == 10
    assert names.count(s.EVENT_SUPPRESSED) == 1
    (told,) = [
        each.log_record
        for each in exporter.get_finished_logs()
        if each.log_record.event_name == s.EVENT_SUPPRESSED
    ]
    assert told.attributes[s.SUPPRESSED_COUNT] == 20
    with papyra_otel.open_log(f"file:{tmp_path}/facts") as log:
        assert len(list(log.read(name=s.ACTOR_STARTED))) == 30
