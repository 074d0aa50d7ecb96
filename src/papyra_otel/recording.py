"""A recording: a log, the pipeline to it, and the adapters that feed it. Here the parts are put together.

What a process has of them, and how it begins and ends, is in ``plugin``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from papyra_otel import semconv
from papyra_otel.config import ForwardMode, Settings, StartupMode, WriteMode
from papyra_otel.errors import (
    LogTooNew,
    LogUnavailable,
    PapyraOtelError,
)
from papyra_otel.facts import Fact
from papyra_otel.log import FactLog, LogOptions, open_log
from papyra_otel.log.contract import Lost, Mark
from papyra_otel.log.file.spool import Spool
from papyra_otel.log.retention import Retention
from papyra_otel.payload import redact_url
from papyra_otel.pipeline import startup
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.courier import Courier
from papyra_otel.pipeline.durations import DurationSampler
from papyra_otel.pipeline.forward import Forwarder
from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.limiter import Limiter
from papyra_otel.pipeline.logger import FactLogger, FactLoggerProvider
from papyra_otel.pipeline.metrics import Metrics, Source
from papyra_otel.pipeline.otel import Scope
from papyra_otel.pipeline.resource import own_scope, resource_now
from papyra_otel.pipeline.scanner import Scanner
from papyra_otel.pipeline.spill import Spill
from papyra_otel.pipeline.timed import TimedLog
from papyra_otel.pipeline.upkeep import Telling, Upkeep, fact_of_mark
from papyra_otel.pipeline.worker import Worker
from papyra_otel.pipeline.writer import Ended, FactWriter
from papyra_otel.pipeline.zeros import Zeros
from papyra_otel.recorder import EventEmitter, Recorder
from papyra_otel.reports import CompactionReport, ProgressCallback, RecoveryReport, ScanReport
from papyra_otel.runtimes.adapter import Adapter, HandsDown, RuntimeCapabilities
from papyra_otel.runtimes.auditor import Auditor
from papyra_otel.runtimes.known import adapter_class
from papyra_otel.saying import say

if TYPE_CHECKING:
    from papyra_otel.pipeline.delivery.outbox import Outbox
    from papyra_otel.pipeline.hatch import Hatch

__all__ = ["Recording", "process_metrics"]

TELL_SECONDS = 5.0  # how often it is looked whether hidden events are to be told

process_metrics: Metrics = Metrics()  # of all recordings of this process: instruments are made once


class Recording:
    """What is being recorded in this process, or why nothing is.

    *active* is False when recording was asked for and is not possible; *error* says why. *recorder* works
    either way, so the program's own code may record facts without asking. *was_chosen*: settings for it were given in
    a configuration file, or to an instrumentor. Thread-safe.
    """

    def __init__(
        self, settings: Settings | None, error: PapyraOtelError | None = None, *, again: bool = False
    ) -> None:
        self._again = (
            again  # an actor may be waiting: what is behind a network is left to the writer's thread
        )
        self.error = error
        self.was_chosen = False
        self.active: bool = error is None
        self.settings = settings
        self.leases = 0  # how many use it besides the runtimes it instruments: see ``lease``
        self._counters = Counters()
        self._guard = Guard(self._counters)
        self._courier = Courier(self._counters, self._guard)
        self._adapters: dict[str, Adapter] = {}
        self._log: FactLog | None = None
        self._upkeep: Upkeep | None = None
        self._scanner: Scanner | None = None
        self._emitter: FactLogger | _Nowhere = _Nowhere()
        self._store: FactLogger | None = None
        self._spill: Spill | None = None
        self._outbox: Outbox | None = None
        self._hatch: Hatch | None = None
        self._limiter = Limiter(self._counters, self._wake_teller)
        self._teller = Worker(
            "papyra-otel-limiter", _nothing, chore=self._tell_hidden, chore_seconds=TELL_SECONDS
        )
        self._said_spilled = self._said_left = 0
        self._reachable = not again
        if settings is not None and self.active:
            self._assemble(settings)
        self.recorder: Recorder = self._new_recorder(settings)
        if settings is not None and self.active:
            self._begin(settings)

    @property
    def log_url(self) -> str | None:
        """Where facts go, credentials masked; None when nothing is recorded."""
        return redact_url(self.settings.log) if self.active and self.settings is not None else None

    def capabilities(self) -> tuple[RuntimeCapabilities, ...]:
        """Return what each instrumented runtime can tell."""
        return tuple(adapter.capabilities() for adapter in list(self._adapters.values()))

    def audit(self) -> None:
        """Record the state of every system now, in addition to the periodic audits. Never raises."""
        if self.active:
            self._auditor.audit()

    def flush(self) -> None:
        """Store what waits and force it to the disk. Never raises; failures are counted and logged."""
        if self._log is not None:
            with self._guard("flush"):
                self._writer.drain()
                self._log.flush()

    @property
    def emitter(self) -> EventEmitter:
        """Where an event becomes a fact, for facts that no verb of the recorder makes."""
        return self._emitter

    @property
    def guard(self) -> Guard:
        """The fence for what runs on an actor's path; it counts into this recording."""
        return self._guard

    def adapter(self, runtime: str) -> Adapter | None:
        """Return what feeds this recording from *runtime*, or None."""
        return self._adapters.get(runtime)

    def stored_bytes(self) -> int:
        """Return how many bytes this process stored since it began. Takes no lock."""
        return 0 if self._log is None else sum(size for _, size in self._log.appended().values())

    def lost(self) -> int:
        """Return how many facts were recorded and lost; each loss is told by a ``papyra.fact.dropped``."""
        return self._counters.total(semconv.PERSISTENCE_DROPPED)

    # --- looking after the log ------------------------------------------------------------------------

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
    ) -> ScanReport:
        """Scan the log as ``FactLog.scan`` does; what is new becomes facts and metrics of this recording.

        Runs in the caller's thread, at full speed. Raises what the log raises; LogUnavailable without a recording.
        """
        return self._look_after().scan(progress, incremental=incremental, seconds_max=seconds_max)

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """Recover the log as ``FactLog.recover`` does, while recording goes on; see ``scan``."""
        return self._look_after().recover(mode, dry_run=dry_run, progress=progress)

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """Remove what retention hides as ``FactLog.compact`` does, while recording goes on; see ``scan``."""
        return self._look_after().compact(retention, force, dry_run=dry_run, progress=progress)

    def _look_after(self) -> Upkeep:
        if self._upkeep is None:
            raise LogUnavailable(f"nothing is recorded: {self.error or 'no log'}", error_type="not_recording")
        return self._upkeep

    # --- parts, back to front -----------------------------------------------------------------------

    def _assemble(self, settings: Settings) -> None:
        live = settings.forward is ForwardMode.LIVE
        options = LogOptions(
            fsync=settings.fsync.value,
            on_mark=self._post_mark if live else None,
            on_lost=self._note_lost,
            resource=resource_now,
        )
        log = open_log(settings.log, retention=settings.retention, options=options)
        if not (self._again and log.capabilities.behind_a_network):
            self._reachable = _prepared(log, settings)
            _say_unsupported(settings, log)
        self._backend = log.capabilities.backend
        self._log = TimedLog(log, self._post_duration)
        far = log.capabilities.behind_a_network
        self._spill = _opened_spill(settings, self._counters, self._backend) if far else None
        self._counters.expect(Zeros(self._backend, spills=self._spill is not None))
        self._writer = FactWriter(
            self._log,
            self._counters,
            queued=far or settings.write is WriteMode.QUEUED,
            spill=self._spill,
            chore=self._beat if far else None,
        )
        provider = FactLoggerProvider(
            self._writer,
            self._counters,
            self._guard,
            system=_default_system(settings, "default"),
            forward=live,
            limiter=self._limiter,
            forward_messages=settings.forward_messages,
            forward_payload=settings.forward_payload,
        )
        scope = own_scope()
        emitter = provider.get_logger(scope.name, scope.version, scope.schema_url)
        self._forwarder = Forwarder(self._counters, scope) if live else None
        if settings.forward is ForwardMode.OUTBOX:
            self._outbox = self._new_outbox(settings, scope)
        self._emitter = emitter
        self._store = emitter.without_forwarding()
        self._writer.tell = lambda attributes: emitter.emit(
            severity_text="ERROR", attributes=attributes, event_name=semconv.FACT_DROPPED
        )
        shared = log.capabilities.shared_between_processes
        self._upkeep = (
            Upkeep(  # beside the writer, so as a writer of its own; unless there is but this one log
                open_log(settings.log, retention=settings.retention, options=options) if shared else log,
                self._counters,
                self._guard,
                Telling(logger=emitter, forward=self._forward, timed=self._post_duration),
                appended=log.appended,
                system=settings.system or settings.service_name,
            )
        )

    def _new_outbox(self, settings: Settings, scope: Scope) -> Outbox | None:
        """Return what delivers from the log. What is wrong with the receiver's settings is no reason not to record."""
        from papyra_otel.pipeline.delivery.outbox import Outbox  # noqa: PLC0415 - only who needs it pays for it
        from papyra_otel.pipeline.delivery.target import Target  # noqa: PLC0415 - as above

        log: FactLog | None = None
        try:
            log = open_log(settings.log)
            return Outbox(
                log,
                Target.load(),
                self._counters,
                self._guard,
                scope,
                told=say,
                exit_seconds=settings.exit_timeout_seconds,
                messages=settings.forward_messages,
                payload=settings.forward_payload,
            )
        except PapyraOtelError as error:
            say(f"forward=outbox: {str(error).rstrip('.')}. Facts are recorded, and not delivered.")
            if log is not None:
                log.close()
            return None

    def _beat(self) -> None:
        """Show that this process lives: as the writer, and as the one that looks after the log."""
        if self._log is not None:
            self._log.beat()
        if self._upkeep is not None:
            self._upkeep.beat()

    def _note_lost(self, lost: Lost) -> None:
        """Take note of what the log acknowledged and lost; it is locked just now."""
        self._writer.note_lost(lost)

    def _forward(self, fact: Fact) -> None:
        if self._forwarder is not None:
            self._forwarder.forward(fact, None)

    def _wake_teller(self) -> None:
        self._teller.wake()

    def _tell_hidden(self, *, whole: bool = False) -> None:
        """Forward how many events were hidden by the limiter, when their time is over or it is the end."""
        for fact in self._limiter.summaries(whole=whole):
            self._forward(fact)

    def _post_mark(self, mark: Mark) -> None:
        """Forward what a segment says of itself, but not here: the log is locked, and an actor may be waiting."""
        self._courier.post(lambda: self._forward(fact_of_mark(mark)))

    def _post_duration(self, operation: str, seconds: float, error_type: str) -> None:
        backend = self._backend
        self._courier.post(lambda: process_metrics.record_duration(backend, operation, seconds, error_type))

    def _new_recorder(self, settings: Settings | None) -> Recorder:
        if settings is None:
            return Recorder(self._emitter, self._counters)
        return Recorder(
            self._emitter,
            self._counters,
            messages=settings.messages,
            payload=settings.payload,
            spans=settings.spans,
            group=settings.group,
            measure=DurationSampler(process_metrics.record_process_duration),
        )

    def _begin(self, settings: Settings) -> None:
        self._auditor = Auditor(
            self.recorder, self._guard, lambda: list(self._adapters.values()), settings.audit_interval_seconds
        )
        assert self._log is not None  # noqa: S101 - for the type checkers
        assert self._upkeep is not None  # noqa: S101 - for the type checkers
        self._source = Source(
            backend=self._backend,
            counters=self._counters,
            appended=self._log.appended,
            waiting=self._writer.waiting,
            last_audits=self.recorder.last_audits_unix_nano,
            health=self._upkeep.health,
            backlog=None if self._outbox is None else self._outbox.backlog,
            spill_bytes=None if self._spill is None else self._spill.size_bytes,
            gauges=self._gauges,
        )
        process_metrics.attach(self._source)
        if settings.metrics_socket:
            from papyra_otel.pipeline.hatch import opened_hatch  # noqa: PLC0415 - only who needs it pays for it

            system = _default_system(settings, "")
            self._hatch = opened_hatch(settings.log, system, self._source, self._guard, say)
        try:
            if self._reachable:
                startup.start(self._upkeep, settings.startup, settings.log, say)
        except BaseException:
            self.close()
            raise
        self._courier.start()
        self._writer.begin()
        if self._outbox is not None:
            self._outbox.start()
        self._begin_scanning(self._upkeep, settings)

    def _begin_scanning(self, upkeep: Upkeep, settings: Settings) -> None:
        if settings.scan_interval_seconds is None:
            return
        if upkeep.capabilities.scan:
            self._scanner = Scanner(upkeep, self._guard, settings.scan_interval_seconds)
            self._scanner.start()
        else:
            say(f"scan_interval: the {self._backend} log cannot be scanned; facts are recorded without it.")

    @property
    def store(self) -> FactLogger | None:
        """A logger that stores and does not forward, for what comes from the application's SDK."""
        return self._store

    # --- runtimes -------------------------------------------------------------------------------------

    def instrument(self, runtime: str) -> bool:
        """Instrument *runtime*; say whether it is installed here. Twice is once."""
        if runtime in self._adapters or not self.active or self.settings is None:
            return True
        made = adapter_class(runtime)
        if made is None:
            return False
        adapter = made(self.recorder, self._guard, self._system_for(runtime, self.settings))
        if isinstance(adapter, HandsDown):
            adapter.hand_down(self.settings.handed_down())
        try:
            adapter.install()
        except ModuleNotFoundError:
            return False
        self._adapters[runtime] = adapter
        self._auditor.start()
        return True

    def has(self, runtime: str) -> bool:
        """Say whether *runtime* is instrumented."""
        return runtime in self._adapters

    def _gauges(self) -> Iterable[RuntimeGauges]:
        """Return what each system shows now, whatever runtimes it has, under the names that metrics have for types."""
        systems: dict[str, RuntimeGauges] = {}
        for adapter in list(self._adapters.values()):
            with self._guard(f"{adapter.name}.gauges"):
                for state in adapter.gauges():
                    shown = state.folded({name: self.recorder.counted_as(name) for name in state.types()})
                    known = systems.get(shown.system)
                    systems[shown.system] = shown if known is None else known.joined(shown)
        return systems.values()

    def uninstrument(self, runtime: str) -> bool:
        """Unhook from *runtime*; say whether any runtime is still instrumented."""
        adapter = self._adapters.pop(runtime, None)
        if adapter is not None:
            adapter.uninstall()
        return bool(self._adapters)

    @staticmethod
    def _system_for(runtime: str, settings: Settings) -> str | None:
        """Return the system id for *runtime*; None lets papyra use its own."""
        return settings.system if runtime == "papyra" else _default_system(settings, runtime)

    def rest(self) -> None:
        """Unhook from every runtime, and stay able to record for those who have it on lease. Never raises."""
        for runtime in list(self._adapters):
            with self._guard(f"{runtime}.uninstall"):
                self.uninstrument(runtime)
        if self._log is not None:
            self._auditor.stop()

    # --- ends -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Unhook from every runtime, store what waits, seal and close the log. Never raises."""
        self.rest()
        if self._log is None:
            return
        self._stop_scanning()
        with self._guard("close"):
            self._say_left(self._writer.close())
        self._log.close()
        if self._upkeep is not None:
            self._upkeep.close()
        if self._outbox is not None:
            self._outbox.close()
        if self._hatch is not None:
            self._hatch.close()
        self._deliver()
        process_metrics.detach(self._source)

    def at_exit(self) -> None:
        """End in order, but stay able to record: threads and exit handlers that come later still have facts."""
        if self._log is not None:
            self._auditor.stop()  # an audit from now on would miss the application's provider
            self._stop_scanning()
            with self._guard("at_exit"):
                self._say_left(self._writer.end())
            self._log.seal()
            if self._upkeep is not None:
                self._upkeep.seal()
            if self._outbox is not None:
                self._outbox.stop()
            if self._hatch is not None:
                self._hatch.close()
            self._deliver()

    def _stop_scanning(self) -> None:
        if self._scanner is not None:
            self._scanner.stop()

    def _deliver(self) -> None:
        """Forward what was noted, while the application's provider is there."""
        self._teller.stop()
        with self._guard("limiter"):
            self._tell_hidden(whole=True)
        self._teller.reset()
        self._courier.stop()
        self._courier.run_waiting()

    def _say_left(self, ended: Ended) -> None:
        if ended.spilled and self._spill is not None and ended.spilled != self._said_spilled:
            self._said_spilled = ended.spilled
            say(
                f"{ended.spilled} facts for {self.log_url} wait in {self._spill.root}; "
                "the next process that records there with this spill stores them."
            )
        if ended.left and ended.left != self._said_left:
            self._said_left = ended.left
            say(f"{ended.left} facts could not be written to {self.log_url} and are lost.")

    def after_fork_in_child(self) -> None:
        """Go on as a new writer with counts from zero; the parent keeps what it had."""
        if self._log is not None:
            self._counters.reset()
            self._limiter.reset()
            self._teller.reset()
            self._writer.after_fork_in_child()
            self._auditor.after_fork_in_child()
            self._courier.after_fork_in_child()
            if self._upkeep is not None:
                self._upkeep.after_fork_in_child()
            if self._scanner is not None:
                self._scanner.after_fork_in_child()
            if self._outbox is not None:
                self._outbox.after_fork_in_child()
            if self._hatch is not None:
                self._hatch.after_fork_in_child()


def _nothing() -> bool:
    """Do what a worker does that has only a chore."""
    return True


class _Nowhere:
    """Stands where the logger stands when nothing is recorded."""

    def emit(self, **event: Any) -> None:
        """Forget the event."""


def _prepared(log: FactLog, settings: Settings) -> bool:
    """Make *log* ready; say whether it could be reached. One behind a network need not be there yet.

    A recorder must not depend on the order in which things start, so facts wait; docs/decisions/0035 says more.
    """
    try:
        log.prepare()
    except LogTooNew as error:  # our own segments stand beside the newer ones: recording is safe
        say(f"{error} Recording goes on.")
    except LogUnavailable as error:
        if settings.startup is StartupMode.FAIL or not log.capabilities.behind_a_network:
            raise
        place = "memory" if settings.spill is None else f"memory and in {settings.spill}"
        say(
            f"{str(error).rstrip('.')}. Recording begins all the same: facts wait in {place} until it is there."
        )
        return False
    return True


def _opened_spill(settings: Settings, counters: Counters, backend: str) -> Spill | None:
    """Return what keeps facts on the disk while the log is away. A folder that cannot be written may be later."""
    if settings.spill is None:
        return None
    spool = Spool(settings.spill, fsync=settings.fsync.value, told=say)
    try:
        spool.prepare()
    except LogUnavailable as error:
        if settings.startup is StartupMode.FAIL:
            raise
        say(f"spill: {str(error).rstrip('.')}. Until that is put right facts wait in memory only.")
    return Spill(spool, counters, backend=backend)


def _say_unsupported(settings: Settings, log: FactLog) -> None:
    """Say which of the chosen settings cannot be honoured: nothing is pretended."""
    able = log.capabilities
    if settings.write is WriteMode.THROUGH and able.behind_a_network:
        say(
            f"write=through: the {able.backend} log is behind a network, so facts are queued all the same: "
            "no actor waits for a server."
        )
    if settings.spill is not None and not able.behind_a_network:
        say(
            f"spill: the {able.backend} log is on this machine and needs none; facts are recorded without it."
        )


def _default_system(settings: Settings, otherwise: str) -> str:
    return settings.system or settings.service_name or otherwise
