"""Everything in the registry, emitted by our own code: in a test, or as a program for Prometheus to scrape.

``python everything.py FOLDER [REDIS_URL]`` serves its metrics at a port of its own, which it prints, until its stdin
closes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio

from papyra_otel import Actor, Fact, FactKind, LogUnavailable, PapyraPersistence, semconv
from papyra_otel.config import Settings, SpanMode
from papyra_otel.facts import Capabilities
from papyra_otel.log.contract import LogOptions, Mark
from papyra_otel.log.file.filelog import FileLog
from papyra_otel.log.memory import MemoryLog
from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.upkeep import Telling, Upkeep, fact_of_mark
from papyra_otel.plugin import Recording
from papyra_otel.recorder import AuditSnapshot
from papyra_otel.runtimes.tracing import Tracing
from papyra_otel.testing import make_fact

ACTOR = Actor(system="orders", type="shop.Worker", address="orders/1", name="worker", parent="orders/0")


def emit_everything(folder: Path, redis_url: str | None) -> list[Recording]:
    """Emit it, and return the recordings that did, still open: some is seen only now, some when they close."""
    marks = damaged_log(folder / "facts")
    recordings = [begin(f"file:{folder}/facts", forward_messages=True)]
    if redis_url is not None:
        recordings.append(begin(redis_url))
        recordings.append(begin(redis_url, spill=f"{folder}/spill", forward="outbox", exit_timeout="0s"))
    for mark in marks:
        recordings[0]._forward(fact_of_mark(mark))
    record(recordings[0])
    handle_inside_a_trace()
    persist(f"file:{folder}/persisted")
    look_after(recordings[0])
    fail(recordings[0])
    for recording in recordings:
        recording._adapters["made"] = Made()
        recording.recorder.started(ACTOR)
        recording.flush()
    return recordings


def begin(log: str, **settings: object) -> Recording:
    """Begin to record beside any other recording of this process."""
    return Recording(Settings.load({"log": log, "system": "orders", **settings}, {}))


class Made:
    """An adapter of no runtime, which shows all that one can show."""

    name = "made"

    def gauges(self) -> Iterable[RuntimeGauges]:
        """See Adapter."""
        yield RuntimeGauges(
            system="orders",
            mailbox_depths={"shop.Worker": [3, 4]},
            longest_active_seconds={"shop.Worker": 1.5},
            blocked_senders={"shop.Worker": 1},
            registry_entries={"ok": 2, "orphan": 1, "dead": 0},
        )

    def audits(self) -> Iterable[AuditSnapshot]:
        """See Adapter."""
        return ()

    def uninstall(self) -> None:
        """See Adapter."""


def handle_inside_a_trace() -> None:
    """Handle a message in a span, and fail."""
    tracing = Tracing(SpanMode.ALWAYS, "papyra")
    handling = tracing.begin(None, ACTOR, "m", asked=False)
    assert handling is not None
    tracing.finish(handling, ValueError("no"))
    tracing.leave(handling)


def damaged_log(root: Path) -> list[Mark]:
    """Make a log of many files, one of them damaged, with a hole and its explanation; return what it said of itself."""
    marks: list[Mark] = []
    log = FileLog(root, segment_bytes_max=4096, options=LogOptions(on_mark=marks.append))
    log.append([make_fact(n, system="old") for n in range(100)])
    writer, seq = log.reserve("old", FactKind.AUDIT)
    ranges = {semconv.DROPPED_RANGES: [f"{writer}-audit-{seq}..{seq}"]}
    log.append(
        [make_fact(100, kind=FactKind.EVENT, system="old", name=semconv.FACT_DROPPED, attributes=ranges)]
    )
    log.append([make_fact(n, system="old") for n in range(101, 200)])
    log.close()
    damaged = sorted((root / "old" / "events").glob("*.ndjson"))[-2]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0x55
    damaged.write_bytes(content)
    return marks


def record(recording: Recording) -> None:
    """Say every verb, about two systems."""
    say = recording.recorder
    say.system_started("orders", runtime="papyra", version="0.3.0")
    for system in ("orders", "stock"):
        actor = Actor(
            system=system, type="shop.Worker", address=f"{system}/1", name="worker", parent=f"{system}/0"
        )
        say.started(actor, incarnation=0)
        say.processed(actor, message="m", kind="tell", duration_seconds=0.01, wait_seconds=0.001)
        say.processed(actor, message="m", kind="ask", duration_seconds=0.01, error=ValueError("no"))
        say.crashed(actor, ValueError("no"), phase="receive", incarnation=0)
        limits = {"restart_count": 1, "restart_limit": 3, "restart_window_seconds": 60.0}
        say.decided(actor, directive="restart", source="policy", outcome="restarted", **limits)
        say.restarted(actor, incarnation=1)
        say.decided(actor, directive="restart", source="parent", outcome="restart_failed", **limits)
    for _ in range(11):  # one more than is forwarded in full
        say.crashed(ACTOR, ValueError("no"), phase="receive")
        say.processed(ACTOR, message="m", kind="tell", duration_seconds=0.01, error=KeyError("no"))
        say.dead_letter(ACTOR, message="m", reason="expired", kind="tell")
    say.ask_timed_out(ACTOR, message=type("Long" * 300_000, (), {})(), timeout_seconds=1.0)
    nan = float("nan")  # is no JSON
    say.decided(ACTOR, directive="stop", source="runtime", outcome="stopped", restart_window_seconds=nan)
    say.dead_letter(ACTOR, message={"order": 7}, reason="actor_stopped", kind="tell")
    say.dead_letter(ACTOR, message={"order": 8}, reason="undrained", kind="tell", stopping=True)
    say.declared(ACTOR, mailbox="default")
    say.stopped(ACTOR, reason="requested", lifetime_seconds=1.5, incarnation=1)
    say.stopped(ACTOR, reason="start_failed", was_started=False)
    for n in range(semconv.ACTOR_TYPES_MAX):  # with those above more than metrics tell apart
        say.restarted(Actor(system="orders", type=f"T{n}", address=f"orders/t{n}"), incarnation=1)
    say.audit(AuditSnapshot(system="orders", actors_total=0))
    say.audit(
        AuditSnapshot(
            system="orders",
            actors_total=4,
            actors_alive=2,
            actors_stopping=1,
            actors_restarting=1,
            registry_size=3,
            registry_orphans=["nobody"],
            registry_dead=["clerk"],
            dead_letters=2,
            mailbox_depths={"orders/1": 3},
            reasons=["1 dead actor in the registry"],
            unsupported=["mailbox depth"],
        )
    )
    say.system_stopped("orders", runtime="papyra")


def persist(log: str) -> None:
    """Record as papyra itself does: what no attribute says is kept as papyra's record says it."""
    backend = PapyraPersistence(log, system="orders")
    for event_type in ("ActorStarted", "ActorStopped", "ActorCrashed", "ActorRestarted", "Other"):
        record = {
            "actor_address": "orders:1",
            "event_type": event_type,
            "payload": {"n": 1},
            "timestamp": 1.0,
        }
        backend.record_event(record).close()
    backend.record_audit({"registry_dead": ["clerk"], "timestamp": 1.0}).close()
    backend.record_dead_letter({"target": None, "message_type": "Order", "payload": "m"}).close()
    anyio.run(backend.aclose)


def look_after(recording: Recording) -> None:
    """Scan, recover and compact: what works, and what fails."""
    recording.scan()
    recording.recover()
    recording.compact("events=1")
    assert recording._upkeep is not None
    failing = Upkeep(
        _Failing(),
        recording._counters,
        recording._guard,
        Telling(logger=recording._emitter, forward=lambda _: None, timed=recording._post_duration),
        appended=dict,
    )
    for verb in (failing.scan, failing.recover, failing.compact):
        try:
            verb()
        except LogUnavailable:
            pass
        else:
            raise AssertionError("it must fail")


class _Failing(MemoryLog):
    """A log whose disk is broken."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(backend="file", durable=True, shared_between_processes=True, scan=True)

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise LogUnavailable("the disk is broken", error_type="EIO")

    scan = recover = compact = _fail


def fail(recording: Recording) -> None:
    """Lose facts, one more than are told in full, and let our own code fail."""
    timed = recording._log
    works = timed._write

    def breaks(_: Iterable[Fact]) -> Any:
        timed._write = works
        raise TypeError("this fact cannot be stored")

    for _ in range(11):
        timed._write = breaks
        recording.recorder.started(ACTOR)
        recording.flush()  # which tells of it
    with recording._guard("emit"):
        raise RuntimeError("a fault of ours")
    recording._post_duration("flush", 0.001, "EIO")
    recording._counters.add(semconv.DELIVERY_EXPORTED, ("400",))


def main() -> None:
    """Emit everything, and let it be scraped until stdin closes."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import start_http_server

    folder, *redis = sys.argv[1:]
    set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    server, _ = start_http_server(0, addr="127.0.0.1")
    recordings = emit_everything(Path(folder), *redis or [None])
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    for recording in recordings:
        recording.close()


if __name__ == "__main__":
    main()
