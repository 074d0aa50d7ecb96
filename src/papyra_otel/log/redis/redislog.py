"""The Redis log: what is written (``appending``), what is read (``survey``), and how it is looked after."""

from __future__ import annotations

import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from papyra_otel.errors import LineDamaged, LogUnavailable
from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log.codec import parse
from papyra_otel.log.contract import FactLog, LogOptions, Lost
from papyra_otel.log.following import followed
from papyra_otel.log.identity import Identities
from papyra_otel.log.merge import Query, read_merged, stats_of
from papyra_otel.log.outlet import OUTLET, Outlet, check_outlet_name
from papyra_otel.log.redis.address import Address, parse_address
from papyra_otel.log.redis.appending import Appending
from papyra_otel.log.redis.arrivals import LISTEN_SECONDS_MAX, Arrivals
from papyra_otel.log.redis.deliveries import Delivery, Pending
from papyra_otel.log.redis.groups import Groups
from papyra_otel.log.redis.recover import BAD_MAX, Recovery
from papyra_otel.log.redis.scan import Scanned, Scanner
from papyra_otel.log.redis.survey import Survey
from papyra_otel.log.redis.verified import remember
from papyra_otel.log.redis.wire import connect
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.reports import Check, CompactionReport, ProgressCallback, RecoveryReport, ScanReport

__all__ = ["RedisLog", "open_redis_log"]


def open_redis_log(url: str, *, system: str | None, retention: Retention, options: LogOptions) -> RedisLog:
    """Open a log in Redis or Valkey; see ``parse_address`` for the URLs."""
    return RedisLog(parse_address(url), system=system, retention=retention, options=options)


class RedisLog(FactLog):
    """See ``FactLog`` for the promises and ``keys`` for what is where.

    ``append`` returns when the server confirmed as much as the address's durability asks for. Every call
    waits at most for the address's timeouts; nothing is tried again here. A forked child writes as a new writer.
    """

    def __init__(
        self,
        address: Address,
        *,
        system: str | None = None,
        retention: Retention | None = None,
        options: LogOptions | None = None,
        clock: Callable[[], int] = time.time_ns,
        new_writer: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._address = address
        self._options = options or LogOptions()
        self._system = system
        self._retention = retention or Retention()
        self._clock = clock
        self._identities = Identities(new_writer)
        self._losses: list[Lost] = []
        self._closed = False
        self._scanned: Scanned | None = None
        self._connect()
        _open_logs.add(self)

    def _connect(self) -> None:
        self._wire = connect(self._address)
        self._survey = Survey(self._address, self._wire)
        self._groups = Groups(self._address, self._wire, self._survey, self._system)
        self._appending = Appending(
            self._address,
            self._wire,
            self._identities,
            lost=self._options.on_lost or self._losses.append,
            mark=self._options.on_mark,
            clock=self._clock,
            resource=self._options.resource,
        )

    @property
    def capabilities(self) -> Capabilities:
        """Durable as far as the server is, and any number of processes on any number of hosts may write at once."""
        return Capabilities(
            backend="redis",
            durable=True,
            shared_between_processes=True,
            behind_a_network=True,
            scan=True,
            recover=True,
            compact=True,
        )

    def prepare(self) -> None:
        """Connect. Raises LogUnavailable with the remedy, LogTooNew when a newer version wrote last."""
        self._check_open()
        for line in self._survey.newest_lines(self._system):
            with suppress(LineDamaged):
                parse(line.removesuffix(b"\n"))

    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """See FactLog."""
        return self._identities.reserve(system, kind)

    def append(self, facts: Sequence[Fact], /) -> None:
        """See FactLog."""
        self._check_open()
        self._appending.append(facts)

    def adopt(self, facts: Sequence[Fact], /) -> None:
        """See FactLog."""
        self._check_open()
        self._appending.adopt(facts)

    def beat(self) -> None:
        """See FactLog. Refreshes when this process's writers were last seen."""
        if not self._closed:
            with suppress(LogUnavailable):
                self._appending.seal(sealed=False)

    # --- reading ----------------------------------------------------------------------------------

    def select(self, query: Query) -> Iterator[Entry]:
        """See FactLog."""
        self._check_open()
        return read_merged(
            self._survey.sources(self._system, query.kinds), query, self._retention, self._clock
        )

    def _followed(self, query: Query, after: str | None, wait: Callable[[float], object]) -> Iterator[Entry]:
        """See FactLog. The server tells at once what is new."""
        self._check_open()
        arrivals = Arrivals(self._address, self._wire, self._survey)
        seconds = min(LISTEN_SECONDS_MAX, self._address.timeout_seconds / 2)

        def read(cursor: str | None) -> Iterator[Entry]:
            arrivals.mark(self._system)
            return self.read(kinds=query.kinds, after=cursor)

        def pause() -> bool:
            while wait(0) is not False:
                if arrivals.wait(seconds, self._system):
                    return True
            return False

        return followed(read, query, after, pause)

    def stats(self) -> LogStats:
        """See FactLog."""
        self._check_open()
        return stats_of(self._survey.sources(self._system))

    # --- consumer groups --------------------------------------------------------------------------

    def consume(
        self,
        group: str,
        consumer: str,
        *,
        kinds: FactKind | Iterable[FactKind] | None = None,
        count: int = 100,
        block_seconds: float = 0.0,
        start: str = "oldest",
    ) -> list[Delivery]:
        """Give *consumer* up to *count* entries that nobody in *group* was given yet; each stays pending until ``ack``.

        The group is made where it is not yet: with *start* ``oldest`` all that is stored is for it, with ``newest``
        what comes from now on. Waits up to *block_seconds* for the first entry. Damaged entries are given out, too, so
        that they can be acknowledged. Per stream (a system's kind, in one shard) the order is that of storing; what
        retention hides is not left out. At least once: after a crash, a failover or a flush entries may come again, see
        ``Unseen``. Raises ConfigError, LogUnavailable: what was given out then, and did not arrive, is there to
        ``claim``.
        """
        self._check_open()
        return self._groups.consume(
            group, consumer, kinds=kinds, count=count, block_seconds=block_seconds, start=start
        )

    def ack(self, group: str, deliveries: Iterable[Delivery]) -> int:
        """Note that *deliveries* are done with; return how many were pending until now. Raises LogUnavailable."""
        self._check_open()
        return self._groups.ack(group, deliveries)

    def pending(self, group: str, *, count: int = 1000) -> tuple[Pending, ...]:
        """Return up to *count* entries that were given out in *group* and not acknowledged, per stream oldest first.

        Raises LogUnavailable.
        """
        self._check_open()
        return self._groups.pending(group, count=count)

    def claim(self, group: str, consumer: str, *, idle_seconds: float, count: int = 100) -> list[Delivery]:
        """Give *consumer* up to *count* pending entries that whoever has them had for *idle_seconds* at least.

        An entry that was removed meanwhile is given out once as damaged, and is then no more pending. Raises
        ConfigError, LogUnavailable.
        """
        self._check_open()
        return self._groups.claim(group, consumer, idle_seconds=idle_seconds, count=count)

    def outlet(self, name: str = OUTLET) -> Outlet:
        """See FactLog. It is a consumer group, so several processes may deliver, sharing the work."""
        from papyra_otel.log.redis.outlet import RedisOutlet  # noqa: PLC0415 - who only writes never needs it

        self._check_open()
        group = f"papyra-otel-{check_outlet_name(name)}"
        return RedisOutlet(self._address, self._wire, self._survey, self._groups, self._system, group)

    # --- looking after it ---------------------------------------------------------------------------

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
    ) -> ScanReport:
        """See FactLog. A full scan also looks at the name of every key that the server has."""
        self._check_open()
        scanned = self._scanner(progress, incremental=incremental, seconds_max=seconds_max).run()
        self._scanned = scanned
        with suppress(LogUnavailable):
            return replace(scanned.report, risks=tuple(risk for risk in self.risks() if not risk.ok))
        return scanned.report

    def _scanner(self, progress: ProgressCallback | None, **more: Any) -> Scanner:
        return Scanner(
            wire=self._wire,
            survey=self._survey,
            prefix=self._address.prefix,
            shown=self._address.shown,
            system=self._system,
            clock=self._clock,
            progress=progress,
            **more,
        )

    def preflight(self) -> tuple[Check, ...]:
        """See FactLog."""
        from papyra_otel.log.redis.preflight import preflight  # noqa: PLC0415 - who only writes never needs it

        return preflight(self._address, self._wire, self._clock)

    def risks(self) -> tuple[Check, ...]:
        """See FactLog. Raises LogUnavailable."""
        from papyra_otel.log.redis.preflight import risks  # noqa: PLC0415 - as above

        self._check_open()
        return risks(self._address, self._wire, self._clock)

    def remember(self) -> None:
        """See FactLog."""
        scanned, self._scanned = self._scanned, None
        for site in scanned.sites if scanned is not None else ():
            remember(
                self._wire, site.tag, {kind: each.kept for kind, each in site.streams.items() if each.fresh}
            )

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """See FactLog. Writers go on; what they store meanwhile is left as it is."""
        self._check_open()
        return Recovery(
            wire=self._wire,
            survey=self._survey,
            prefix=self._address.prefix,
            shown=self._address.shown,
            system=self._system,
            mode=mode,
            dry_run=dry_run,
            scan=self._scan_keeping,
            record=self._record,
            clock=self._clock,
            bad_max=BAD_MAX,
        ).run(progress)

    def _scan_keeping(self, progress: ProgressCallback | None, /, *, bad_max: int) -> Scanned:
        return self._scanner(progress, bad_max=bad_max).run()

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """See FactLog. What a consumer group has not read and acknowledged stays, too, unless *force*."""
        from papyra_otel.log.redis.compact import compact_log  # noqa: PLC0415 - who only writes never needs it

        self._check_open()
        limits = parse_retention(retention) if isinstance(retention, str) else retention or self._retention
        return compact_log(
            self._address,
            self._wire,
            self._system,
            self._clock,
            limits,
            force=force,
            dry_run=dry_run,
            progress=progress,
            record=self._record,
        )

    def _record(
        self, facts: Sequence[Fact], make_room: Callable[[], bool] = lambda: False
    ) -> tuple[Fact, ...]:
        """Append facts about the log itself; return them with their identities.

        While the server has no memory it tries again as long as *make_room* finds something to give up.
        """
        identified = tuple(self._identities.identified(fact) for fact in facts)
        while True:
            try:
                self.append(identified)
            except LogUnavailable as error:
                if error.error_type == "oom" and make_room():
                    continue
                if error.error_type == "oom":
                    self._take_back(identified)
                raise
            else:
                return identified

    def _take_back(self, facts: Sequence[Fact]) -> None:
        """Let the identities of facts that are not stored be given again: a hole would have to be explained."""
        for fact in reversed(facts):
            if not self._appending.has(fact):
                self._identities.take_back(fact.system, fact.kind, fact.seq or 0)

    # --- ends -------------------------------------------------------------------------------------

    def seal(self) -> None:
        """See FactLog. Who did not answer just now is not asked again: an exit must not take twice as long."""
        if not self._appending.failing:
            with suppress(LogUnavailable):
                self._appending.seal()

    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """See FactLog."""
        return self._appending.appended()

    def flush(self) -> None:
        """See FactLog. What ``append`` returned for is as safe as it gets; this tells what the server lost since."""
        self._check_open()
        lost, self._losses[:] = list(self._losses), []
        if lost:
            shown = ", ".join(f"{each.writer}-{each.kind}-{each.first}..{each.last}" for each in lost[:5])
            raise LogUnavailable(
                f"{self._address.shown}: the server lost facts that it had acknowledged: {shown}",
                error_type="rollback",
            )

    def close(self) -> None:
        """See FactLog."""
        if not self._closed:
            self._closed = True
            self.seal()
            self._wire.close()

    def after_fork_in_child(self) -> None:
        """Begin anew: connections and what was sent are the parent's."""
        self._connect()

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("this log was closed; open it again", error_type="closed")


_open_logs: weakref.WeakSet[RedisLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_open_logs):
        log.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
