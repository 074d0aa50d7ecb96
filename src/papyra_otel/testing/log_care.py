"""What every log promises to those who look after it."""

# ruff: noqa: D102, PLR2004, S101 - these are tests: their names are the sentences, numbers are the data
from __future__ import annotations

import time

from papyra_otel import semconv
from papyra_otel.errors import CompactionRefused, ConfigError, NotSupported
from papyra_otel.facts import FactKind
from papyra_otel.testing.capture import FIRST_UNIX_NANO, make_fact
from papyra_otel.testing.log_cases import (
    LogCases,
    MakeLog,
    anonymous,
    event,
    facts_of,
    raised,
)

__all__ = ["CareContract"]


class CareContract(LogCases):
    """Retention hides and compaction removes; scan and recovery, for backends that say they can."""

    # --- retention ----------------------------------------------------------------------------------

    def test_retention_by_records_shows_the_newest_of_each_stream(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two, make_log(retention="events=5") as limited:
            self._fill(one, two)
            everything = facts_of(one)
            events = [fact for fact in everything if fact.kind is FactKind.EVENT]
            expected = [fact for fact in everything if fact.kind is not FactKind.EVENT or fact in events[-5:]]
            self._agrees(limited, expected)

    def test_retention_by_records_counts_each_system_by_itself(self, make_log: MakeLog) -> None:
        systems = ("a", "b", "s" * 5000, "s" * 5000 + "t")
        with make_log() as log, make_log(retention="2") as limited:
            facts = [event(n, system=systems[n % len(systems)]) for n in range(20)]
            log.append(facts)
            self._agrees(limited, facts[-8:])

    def test_retention_by_bytes_counts_stored_lines(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            for n in range(20):
                (one, two)[n % 2].append([event(0, time_unix_nano=FIRST_UNIX_NANO + n)])
            a_line = one.stats().streams[FactKind.EVENT].bytes // 20
            with (
                make_log(retention=f"{5 * a_line}B") as some,
                make_log(retention=f"{5 * a_line + 1}B") as one_more,
                make_log(retention="1B") as newest,
            ):
                self._agrees(some, facts_of(one)[-5:])
                self._agrees(one_more, facts_of(one)[-6:])
                self._agrees(newest, facts_of(one)[-1:])

    def test_retention_by_age_hides_what_is_older(self, make_log: MakeLog) -> None:
        now = time.time_ns()
        hour = 3600 * 1_000_000_000
        with make_log() as log, make_log(retention="audits=1d;events=2h") as limited:
            facts = [make_fact(n, time_unix_nano=now - (9 - n) * hour) for n in range(10)]
            log.append(facts)
            self._agrees(
                limited, [f for f in facts if f.kind is not FactKind.EVENT or f.time_unix_nano >= now - hour]
            )

    def test_of_several_limits_the_strictest_decides(self, make_log: MakeLog) -> None:
        now = time.time_ns()
        with make_log() as log:
            facts = [event(n, time_unix_nano=now - (9 - n) * 60_000_000_000) for n in range(10)]
            log.append(facts)
            for retention, kept in (("3,1h", 3), ("9,150s", 3), ("9,1GiB,1w", 9), ("2,1MiB,150s", 2)):
                with make_log(retention=retention) as limited:
                    self._agrees(limited, facts[-kept:])

    def test_a_limit_that_nothing_exceeds_hides_nothing(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log(retention="10,1GiB") as limited:
            facts = [event(n) for n in range(10)]
            log.append(facts)
            self._agrees(limited, facts)
            log.append([event(10)])
            self._agrees(limited, [*facts[1:], event(10)])

    # --- looking after it, for backends that say they can ----------------------------------------------

    def test_a_healthy_log_is_found_healthy(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            one.prepare()
            if not one.capabilities.scan:
                raised(NotSupported, one.scan)
                return
            assert one.scan().healthy
            self._fill(one, two)
            one.append([event(n, system="ünï/odd") for n in range(40, 45)])
            for log in (one, two):  # while writers write, and after
                report = log.scan()
                assert (report.healthy, report.damaged, report.unresolved) == (True, False, 0), (
                    report.anomalies
                )
                assert report.complete
                stats = log.stats()
                assert {kind: scan.records for kind, scan in report.streams.items()} == {
                    kind: stream.records for kind, stream in stats.streams.items()
                }
                assert all(
                    scan.size_bytes
                    == scan.good_bytes
                    + scan.mark_bytes
                    + scan.newer_bytes
                    + scan.damaged_bytes
                    + scan.in_flight_bytes
                    for scan in report.streams.values()
                )
                assert report.systems == stats.systems
                assert report.writers == stats.writers
                log.seal()

    def test_a_loss_that_was_told_is_healthy_and_one_that_was_not_is_a_gap(self, make_log: MakeLog) -> None:
        with make_log() as reader:
            if not reader.capabilities.scan:
                return
            for told, counts in ((True, {}), (False, {"gap": 1})):
                with make_log() as log:  # what is missing may yet be explained while its writer lives
                    log.append([event(0)])
                    writer, seq = log.reserve("shop", FactKind.EVENT)
                    log.append([event(1)])
                    if told:
                        ranges = {semconv.DROPPED_RANGES: [f"{writer}-event-{seq}..{seq}"]}
                        log.append([event(2, name=semconv.FACT_DROPPED, attributes=ranges)])
                report = reader.scan()
                assert (report.counts, report.damaged) == (counts, not told)

    def test_recovering_a_healthy_log_changes_nothing(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            if not one.capabilities.recover:
                raised(NotSupported, one.recover)
                return
            self._fill(one, two)
            one.seal()
            two.seal()
            before = facts_of(one)
            for mode in ("ignore", "quarantine", "repair"):
                report = one.recover(mode)
                assert not report.changed
                assert report.recorded == ()
                assert report.found.healthy
                assert facts_of(one) == before
            raised(ConfigError, lambda: one.recover("mend"))

    def test_compacting_leaves_exactly_what_retention_shows(self, make_log: MakeLog) -> None:
        with (
            make_log() as one,
            make_log() as two,
            make_log(retention="dead_letters=4;audits=600B") as limited,
        ):
            if not one.capabilities.compact:
                raised(NotSupported, one.compact)
                return
            self._fill(one, two)
            one.seal()
            two.seal()
            shown = {kind: facts_of(limited, kinds=kind) for kind in FactKind}
            everything = {kind: facts_of(one, kinds=kind) for kind in FactKind}
            assert one.compact().records_removed == 0, "no limit, nothing hidden"
            tried = limited.compact(dry_run=True)
            assert {kind: facts_of(one, kinds=kind) for kind in FactKind} == everything
            report = limited.compact()
            assert (report.streams, report.records_removed) == (tried.streams, tried.records_removed)
            assert report.records_removed == sum(
                len(everything[kind]) - len(shown[kind]) for kind in FactKind
            )
            assert {fact.name for fact in report.recorded} == {semconv.LOG_COMPACTED}
            left = {kind: facts_of(one, kinds=kind) for kind in FactKind}
            assert [anonymous(fact) for fact in report.recorded] == left[FactKind.EVENT][
                -len(report.recorded) :
            ]
            del left[FactKind.EVENT][-len(report.recorded) :]
            assert left == shown
            for kind in (FactKind.AUDIT, FactKind.DEAD_LETTER):
                assert one.stats().streams[kind].records == len(shown[kind])
                assert facts_of(one, kinds=kind, newest_first=True) == shown[kind][::-1]
            if one.capabilities.scan:
                assert one.scan().healthy, one.scan().anomalies
            again = limited.compact()
            assert (again.records_removed, again.bytes_freed, again.recorded) == (0, 0, ())

    def test_compacting_events_makes_room_for_the_fact_about_it(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log(retention="events=10") as limited:
            if not log.capabilities.compact:
                return
            log.append([event(n, time_unix_nano=FIRST_UNIX_NANO - n) for n in range(30, -1, -1)])
            log.seal()
            with make_log(retention="events=10") as compactor:
                assert compactor.compact().records_removed == 22
            assert [fact.name for fact in facts_of(limited)][-1] == semconv.LOG_COMPACTED
            assert len(facts_of(log)) == len(facts_of(limited)) == 10
            assert limited.compact().records_removed == 0

    def test_cursors_resume_across_compactions(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two, make_log(retention="dead_letters=3") as limited:
            if not one.capabilities.compact:
                return
            for n in range(12):
                (one, two)[n % 2].append([make_fact(n, kind=FactKind.DEAD_LETTER)])
            one.seal()
            two.seal()
            for newest_first, step in ((False, 1), (True, -1)):
                entries = list(one.read(kinds=FactKind.DEAD_LETTER, newest_first=newest_first))
                limited.compact()
                left = facts_of(one, kinds=FactKind.DEAD_LETTER)
                assert len(left) == 3
                for at, entry in enumerate(entries):
                    rest = facts_of(
                        one, kinds=FactKind.DEAD_LETTER, after=entry.cursor, newest_first=newest_first
                    )
                    later = [anonymous(e.fact) for e in entries[at + 1 :]]
                    assert rest == [fact for fact in left[::step] if fact in later]

    def test_a_clock_that_looks_wrong_removes_nothing_unforced(self, make_log: MakeLog) -> None:
        day = 86_400 * 1_000_000_000
        with make_log() as log, make_log(retention="dead_letters=2d") as limited:
            if not log.capabilities.compact:
                return
            now = time.time_ns()
            log.append(
                [make_fact(n, kind=FactKind.DEAD_LETTER, time_unix_nano=now - 9 * day) for n in range(5)]
            )
            log.seal()
            raised(CompactionRefused, limited.compact)
            assert log.stats().streams[FactKind.DEAD_LETTER].records == 5
            assert limited.compact(force=True).records_removed == 5
            assert log.stats().streams[FactKind.DEAD_LETTER].records == 0
