"""What every log promises, as tests: subclass ``LogContract`` and give it a fixture ``make_log``.

    class TestMyLog(LogContract):
        @pytest.fixture
        def make_log(self, tmp_path):
            def make(system=None, retention=None):
                return open_log(f"my:{tmp_path}", system, retention)
            return make

Each call of ``make_log`` opens the same log again, as another process would; it is empty at first. For
failures that show values, call ``pytest.register_assert_rewrite("papyra_otel.testing")`` in your conftest.py.
"""

# ruff: noqa: D102, PLR2004, S101 - these are tests: their names are the sentences, numbers are the data
from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import Any, Protocol, cast

from papyra_otel import semconv
from papyra_otel.errors import CompactionRefused, ConfigError, LogUnavailable, NotSupported
from papyra_otel.facts import Entry, Fact, FactKind
from papyra_otel.log.contract import FactLog
from papyra_otel.testing.capture import FIRST_UNIX_NANO, make_fact

__all__ = ["LogContract", "MakeLog"]

HOSTILE_SYSTEMS = (
    "",
    ".",
    "..",
    "...",
    ".hidden",
    "a/b",
    "../../etc",
    "x\0y",
    "a\nb",
    "%",
    "%2F",
    "a~b",
    "CON",
    "Ünï¢ödé ✓",
    "s" * 5000,
    "é" * 5000,
    "s" * 4999 + "t",
    "events",
    "quarantine",
    "-rf",
)
_SURROGATE = "lone \ud800 surrogate"


class MakeLog(Protocol):
    """What the fixture ``make_log`` returns. *retention* is text as in the settings."""

    def __call__(self, system: str | None = None, retention: str | None = None) -> FactLog:
        """Open the log under test once more."""
        ...


def facts_of(log: FactLog, **query: Any) -> list[Fact]:
    """Return what a reading yields, without the identities."""
    return [anonymous(entry.fact) for entry in log.read(**query)]


def anonymous(fact: Fact) -> Fact:
    """Return *fact* as it was before the log gave it an identity."""
    return Fact(
        kind=fact.kind,
        name=fact.name,
        time_unix_nano=fact.time_unix_nano,
        system=fact.system,
        actor=fact.actor,
        severity=fact.severity,
        trace_id=fact.trace_id,
        span_id=fact.span_id,
        attributes=fact.attributes,
    )


def event(n: int, **changes: Any) -> Fact:
    """Return example fact *n* as an event."""
    return make_fact(n, kind=FactKind.EVENT, **changes)


def _interrupted(_: float) -> None:
    raise InterruptedError


def _raised(error_type: type[Exception], call: Callable[[], object]) -> Exception:
    try:
        call()
    except error_type as error:
        return error
    raise AssertionError(f"{error_type.__name__} was not raised")


class LogContract:
    """The tests. Every method named ``test_...`` takes the fixture ``make_log``."""

    # --- appending and reading back -----------------------------------------------------------------

    def test_a_new_log_is_empty(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.prepare()
            assert list(log.read()) == list(log.read(newest_first=True)) == []
            assert all(stream.records == stream.bytes == 0 for stream in log.stats().streams.values())
            assert set(log.stats().streams) == set(FactKind)
            assert log.stats().systems == ()
            assert log.stats().writers == 0

    def test_facts_come_back_as_they_were_in_the_order_of_appending(self, make_log: MakeLog) -> None:
        facts = [make_fact(n) for n in range(20)]
        with make_log() as log:
            log.append(facts[:1])
            log.append(facts[1:7])
            log.append([])
            log.append(tuple(facts[7:]))
            assert facts_of(log) == facts

    def test_every_other_opener_sees_at_once_what_was_appended(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log() as other:
            log.prepare()
            for n in range(5):
                log.append([make_fact(n)])
                assert facts_of(other) == [make_fact(i) for i in range(n + 1)]
            with make_log() as late:
                assert facts_of(late) == [make_fact(i) for i in range(5)]

    def test_what_was_stored_is_there_when_the_log_is_opened_again(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log() as keeper:
            log.append([make_fact(n) for n in range(3)])
            log.close()
            with make_log() as again:
                again.append([make_fact(3)])
                assert facts_of(again) == facts_of(keeper) == [make_fact(n) for n in range(4)]

    def test_after_sealing_appending_goes_on_with_the_same_sequence(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([event(0), event(1)])
            log.seal()
            log.seal()
            log.append([event(2)])
            log.flush()
            assert [entry.fact.seq for entry in log.read()] == [0, 1, 2]
            assert len({entry.fact.writer for entry in log.read()}) == 1

    def test_odd_values_are_stored_as_the_codec_documents(self, make_log: MakeLog) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        odd = {"nan": math.nan, "huge": 2**70, "bytes": b"\xff", "cycle": cycle, 5: "key", "lone": "\ud800"}
        plain = {
            "none": None,
            "yes": True,
            "text": "ü\n\0",
            "list": ["a", "b"],
            "int": -(2**63),
            "float": 0.1,
        }
        with make_log() as log:
            log.append([event(0, attributes=odd | plain)])
            (fact,) = facts_of(log)
            assert {name: fact.attributes[name] for name in plain} == plain
            assert set(fact.attributes[semconv.FACT_ENC_ERROR]) == {
                "nan",
                "huge",
                "bytes",
                "cycle",
                "5",
                "lone",
            }

    def test_a_fact_too_long_is_cut_and_says_so(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([event(0, attributes={"long": "x" * 3_000_000, "short": "y"}), event(1)])
            first, second = facts_of(log)
            assert first.attributes[semconv.FACT_TRUNCATED] == ["long"]
            assert first.attributes["short"] == "y"
            assert second == event(1)

    def test_many_threads_may_append_at_once(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.prepare()
            begin = threading.Barrier(8)

            def work(number: int) -> None:
                begin.wait()
                for n in range(50):
                    log.append([event(n, actor=f"thread-{number}")])

            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            entries = [entry.fact for entry in log.read()]
            assert [fact.seq for fact in entries] == list(range(400))
            for number in range(8):
                own = [fact.attributes["n"] for fact in entries if fact.actor == f"thread-{number}"]
                assert own == list(range(50))

    # --- identities ---------------------------------------------------------------------------------

    def test_identities_count_from_zero_per_stream(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([make_fact(n, system=system) for n in range(10) for system in ("a", "b")])
            entries = [entry.fact for entry in log.read()]
            writers = {system: {f.writer for f in entries if f.system == system} for system in ("a", "b")}
            assert all(len(ids) == 1 for ids in writers.values())
            assert writers["a"] != writers["b"]
            for system in ("a", "b"):
                for kind in FactKind:
                    seqs = [fact.seq for fact in entries if (fact.system, fact.kind) == (system, kind)]
                    assert seqs == list(range(len(seqs)))
            assert all(len(fact.writer or "") == 16 and int(fact.writer or "", 16) >= 0 for fact in entries)

    def test_each_opener_is_a_writer_of_its_own(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            one.append([event(0)])
            two.append([event(1)])
            entries = [entry.fact for entry in one.read()]
            assert [fact.seq for fact in entries] == [0, 0]
            assert len({fact.writer for fact in entries}) == 2
            assert one.stats().writers == 2

    def test_a_reserved_identity_is_kept(self, make_log: MakeLog) -> None:
        with make_log() as log:
            identities = [log.reserve("shop", FactKind.EVENT) for _ in range(3)]
            facts = [event(n).identified(*identity) for n, identity in enumerate(identities)]
            log.append(facts[:1])
            log.append(facts[1:])
            log.append([event(3)])
            assert [entry.fact for entry in log.read()][:3] == facts
            assert [entry.fact.seq for entry in log.read()] == [0, 1, 2, 3]
            assert log.reserve("shop", FactKind.AUDIT) == (identities[0][0], 0)

    def test_an_identity_that_was_not_reserved_here_is_refused_and_nothing_stored(
        self, make_log: MakeLog
    ) -> None:
        with make_log() as log, make_log() as other:
            writer, seq = log.reserve("shop", FactKind.EVENT)
            other.prepare()
            foreign = (
                event(0).identified(*other.reserve("shop", FactKind.EVENT)),
                event(0).identified(writer, seq + 1),
                event(0).identified(writer, -1),
                make_fact(0, kind=FactKind.AUDIT, writer=writer, seq=seq),
                event(0, system="other", writer=writer, seq=seq),
                event(0, writer=writer),
            )
            for fact in foreign:
                _raised(ValueError, partial(log.append, [fact]))
                _raised(ValueError, partial(log.append, [event(1), event(2), fact]))
            log.append([event(0).identified(writer, seq), event(1)])
            assert [entry.fact.seq for entry in log.read()] == [0, 1]

    def test_appending_again_with_the_same_identity_is_seen_once(self, make_log: MakeLog) -> None:
        with make_log() as log:
            facts = [event(n).identified(*log.reserve("shop", FactKind.EVENT)) for n in range(6)]
            log.append(facts[:4])
            log.append(facts[2:4])
            log.seal()
            log.append(facts[3:])
            assert [entry.fact for entry in log.read()] == facts
            assert [entry.fact for entry in log.read(newest_first=True)] == facts[::-1]

    # --- order --------------------------------------------------------------------------------------

    def test_writers_are_merged_by_time(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two, make_log() as three:
            for n in range(30):
                (one, two, three)[n % 3].append([make_fact(n)])
            expected = [make_fact(n) for n in range(30)]
            assert facts_of(one) == expected
            assert facts_of(two, newest_first=True) == expected[::-1]

    def test_newest_first_is_the_exact_reverse_even_for_equal_times(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            for n in range(24):
                (one, two)[n % 2].append([make_fact(n, time_unix_nano=FIRST_UNIX_NANO + n // 6)])
            ascending = [entry.fact.uid for entry in one.read()]
            assert [entry.fact.uid for entry in one.read(newest_first=True)] == ascending[::-1]
            assert [entry.fact.uid for entry in two.read()] == ascending

    def test_a_writer_whose_clock_steps_back_keeps_its_own_order(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            for n, moment in enumerate((10, 20, 5, 6, 30, 1)):
                one.append([event(n, time_unix_nano=moment, actor="one")])
                two.append([event(n, time_unix_nano=n * 6, actor="two")])
            for actor in ("one", "two"):
                assert [fact.attributes["n"] for fact in facts_of(one, actor=actor)] == list(range(6))
                newest_first = facts_of(one, actor=actor, newest_first=True)
                assert [fact.attributes["n"] for fact in newest_first] == list(range(6))[::-1]
            assert len(facts_of(one)) == len(facts_of(one, newest_first=True)) == 12

    # --- filters ------------------------------------------------------------------------------------

    def test_kinds_may_be_one_or_several_in_any_form(self, make_log: MakeLog) -> None:
        facts = [make_fact(n) for n in range(15)]
        with make_log() as log:
            log.append(facts)
            forms: tuple[Any, ...] = (
                FactKind.AUDIT,
                "audit",
                [FactKind.AUDIT],
                ("audit",),
                {"audit"},
                iter(["audit"]),
            )
            for form in forms:
                assert facts_of(log, kinds=form) == [fact for fact in facts if fact.kind is FactKind.AUDIT]
            two = (FactKind.AUDIT, FactKind.DEAD_LETTER)
            assert facts_of(log, kinds=two) == [fact for fact in facts if fact.kind in two]
            assert facts_of(log, kinds=None) == facts
            assert facts_of(log, kinds=[]) == []
            _raised(ConfigError, lambda: log.read(kinds=cast("Any", "audits")))

    def test_since_is_included_and_until_is_not(self, make_log: MakeLog) -> None:
        facts = [make_fact(n) for n in range(10)]
        with make_log() as log:
            log.append(facts)
            third, seventh = facts[3].time_unix_nano, facts[7].time_unix_nano
            for newest_first, step in ((False, 1), (True, -1)):
                assert facts_of(log, since=third, newest_first=newest_first) == facts[3:][::step]
                assert facts_of(log, until=seventh, newest_first=newest_first) == facts[:7][::step]
                assert (
                    facts_of(log, since=third, until=seventh, newest_first=newest_first) == facts[3:7][::step]
                )
            assert facts_of(log, since=third + 1) == facts[4:]
            assert facts_of(log, since=third, until=third) == []

    def test_since_and_until_may_be_datetimes(self, make_log: MakeLog) -> None:
        moment = datetime(2026, 11, 22, 20, 2, 45, 123457, tzinfo=timezone.utc)
        nanos = 1_795_377_765_123_457_000
        elsewhere = moment.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
        facts = [event(n, time_unix_nano=nanos + n) for n in (-1, 0, 1)]
        with make_log() as log:
            log.append(facts)
            for given in (moment, elsewhere, elsewhere.astimezone().replace(tzinfo=None)):
                assert facts_of(log, since=given) == facts[1:]
                assert facts_of(log, until=given) == facts[:1]

    def test_actor_and_name_select_exactly(self, make_log: MakeLog) -> None:
        facts = [*(make_fact(n) for n in range(12)), event(12, actor=None)]
        with make_log() as log:
            log.append(facts)
            assert facts_of(log, actor="shop/worker-1") == [f for f in facts if f.actor == "shop/worker-1"]
            assert facts_of(log, name=facts[0].name) == [f for f in facts if f.name == facts[0].name]
            assert facts_of(log, actor="shop/worker") == facts_of(log, name="papyra") == []
            both = {"actor": facts[0].actor, "name": facts[0].name}
            assert facts_of(log, **both) == [f for f in facts if (f.actor, f.name) == tuple(both.values())]

    def test_limit_counts_what_matches(self, make_log: MakeLog) -> None:
        facts = [make_fact(n) for n in range(12)]
        audits = [fact for fact in facts if fact.kind is FactKind.AUDIT]
        with make_log() as log:
            log.append(facts)
            for limit in (0, 1, 5, 12, 13):
                assert facts_of(log, limit=limit) == facts[:limit]
                assert facts_of(log, limit=limit, newest_first=True) == facts[::-1][:limit]
            assert facts_of(log, limit=1, name=audits[0].name) == audits[:1]
            _raised(ConfigError, lambda: log.read(limit=-1))

    def test_a_log_opened_for_one_system_reads_only_that(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log(system="b") as only_b, make_log(system="none") as none:
            facts = [make_fact(n, system="ab"[n % 2]) for n in range(10)]
            log.append(facts)
            assert facts_of(only_b) == facts[1::2]
            assert facts_of(none) == []
            assert only_b.stats().systems == ("b",)
            only_b.append([make_fact(10, system="a")])
            assert facts_of(only_b) == facts[1::2]
            assert len(facts_of(log)) == 11

    # --- cursors ------------------------------------------------------------------------------------

    def test_resuming_after_any_entry_gives_exactly_the_rest(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            self._fill(one, two)
            for newest_first in (False, True):
                entries = list(one.read(newest_first=newest_first))
                for at, entry in enumerate(entries):
                    rest = [e.fact for e in two.read(after=entry.cursor, newest_first=newest_first)]
                    assert rest == [e.fact for e in entries[at + 1 :]]

    def test_resuming_chains_and_works_with_limit_and_filters(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            self._fill(one, two)
            for newest_first in (False, True):
                query: dict[str, Any] = {"name": semconv.ACTOR_STARTED, "newest_first": newest_first}
                wanted = facts_of(one, **query)
                got: list[Fact] = []
                cursor: str | None = None
                while page := list(one.read(after=cursor, limit=2, **query)):
                    got += [anonymous(entry.fact) for entry in page]
                    cursor = page[-1].cursor
                assert got == wanted

    def test_resuming_forward_misses_nothing_appended_later_by_anybody(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            self._fill(one, two)
            entries = list(one.read())
            cursors = [entry.cursor for entry in entries]
            with make_log() as three:
                early = [event(100 + n, time_unix_nano=n + 1) for n in range(4)]
                one.append(early[:1])
                two.append(early[1:2])
                three.append(early[2:])
                for at, cursor in enumerate(cursors):
                    rest = {entry.fact.uid for entry in one.read(after=cursor)}
                    seen = {entry.fact.uid for entry in entries[: at + 1]}
                    assert not rest & seen
                    assert rest | seen == {entry.fact.uid for entry in one.read()}

    def test_resuming_newest_first_goes_on_to_what_is_older(self, make_log: MakeLog) -> None:
        with make_log() as one, make_log() as two:
            self._fill(one, two)
            entries = list(one.read(newest_first=True))
            with make_log() as three:
                for log in (one, two, three):
                    log.append([make_fact(1000)])
                for at, entry in enumerate(entries):
                    rest = [e.fact for e in one.read(after=entry.cursor, newest_first=True)]
                    assert rest == [e.fact for e in entries[at + 1 :]]

    def test_a_cursor_is_the_same_short_ascii_text_every_time(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([make_fact(n, system="ünï") for n in range(200)])
            entries = list(log.read())
            cursors = [entry.cursor for entry in entries]
            assert cursors == [entry.cursor for entry in entries]
            assert cursors == [entry.cursor for entry in log.read()]
            assert all(cursor.isascii() and cursor.isprintable() and " " not in cursor for cursor in cursors)
            assert len(set(cursors)) == len(cursors)

    def test_what_is_no_cursor_of_this_direction_is_refused(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([make_fact(n) for n in range(3)])
            ascending, descending = next(iter(log.read())), next(iter(log.read(newest_first=True)))
            _raised(ConfigError, lambda: log.read(after=ascending.cursor, newest_first=True))
            _raised(ConfigError, lambda: log.read(after=descending.cursor))
            for garbage in (
                "",
                "garbage",
                "é",
                "\ud800",
                ascending.cursor[:-3],
                "x" * 10_000,
                "f1.",
            ):
                _raised(ConfigError, partial(log.read, after=garbage))

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
                _raised(NotSupported, one.scan)
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
                _raised(NotSupported, one.recover)
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
            _raised(ConfigError, lambda: one.recover("mend"))

    def test_compacting_leaves_exactly_what_retention_shows(self, make_log: MakeLog) -> None:
        with (
            make_log() as one,
            make_log() as two,
            make_log(retention="dead_letters=4;audits=600B") as limited,
        ):
            if not one.capabilities.compact:
                _raised(NotSupported, one.compact)
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
            _raised(CompactionRefused, limited.compact)
            assert log.stats().streams[FactKind.DEAD_LETTER].records == 5
            assert limited.compact(force=True).records_removed == 5
            assert log.stats().streams[FactKind.DEAD_LETTER].records == 0

    # --- following ----------------------------------------------------------------------------------

    def test_following_yields_what_is_there_and_then_what_comes(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log() as other, make_log() as third:
            log.append([event(0), make_fact(1, kind=FactKind.AUDIT), event(2, actor="other")])
            late = event(3, time_unix_nano=1)  # of a writer whose clock is behind
            doings: list[Callable[[], object]] = [
                lambda: other.append([late]),
                lambda: log.append([event(4, actor="other"), event(5), make_fact(6, kind=FactKind.AUDIT)]),
                lambda: third.append([event(7, system="new")]),
            ]

            def following(left: Iterator[Callable[[], object]]) -> Callable[[float], object]:
                def wait(seconds: float) -> object:
                    assert seconds >= 0
                    doing = next(left, None)
                    return False if doing is None else doing()

                return wait

            entries = list(log.follow(kinds=FactKind.EVENT, wait=following(iter(doings))))
            assert [entry.fact.attributes["n"] for entry in entries] == [0, 2, 3, 4, 5, 7]
            rest = list(log.follow(kinds=FactKind.EVENT, after=entries[2].cursor, wait=lambda _: False))
            assert [entry.fact.uid for entry in rest] == [entry.fact.uid for entry in entries[3:]]
            some = log.follow(kinds=iter([FactKind.EVENT]), actor="other", since=2, wait=lambda _: False)
            assert [entry.fact.attributes["n"] for entry in some] == [2, 4]
            _raised(ConfigError, lambda: list(log.follow(kinds=cast("Any", "events"))))
            _raised(InterruptedError, lambda: list(log.follow(wait=_interrupted)))

    # --- stats and counts ---------------------------------------------------------------------------

    def test_stats_say_what_is_stored_whatever_retention_hides(self, make_log: MakeLog) -> None:
        facts = [make_fact(n, system="ab"[n % 2]) for n in range(20)]
        with make_log(retention="1") as log, make_log() as reader:
            log.append(facts)
            for _ in range(2):  # open, then sealed
                stats = log.stats()
                assert stats == reader.stats()
                assert stats.systems == ("a", "b")
                assert stats.writers == 2
                for kind in FactKind:
                    own = [fact.time_unix_nano for fact in facts if fact.kind is kind]
                    stream = stats.streams[kind]
                    assert stream.records == len(own)
                    assert (stream.oldest_unix_nano, stream.newest_unix_nano) == (own[0], own[-1])
                assert sum(stream.bytes for stream in stats.streams.values()) == self._appended_bytes(log)
                log.seal()

    def test_appended_counts_what_this_opener_stored(self, make_log: MakeLog) -> None:
        with make_log() as log, make_log() as other:
            assert log.appended() == {}
            other.append([make_fact(n) for n in range(5)])
            log.append([event(0), event(1), event(2, system="b")])
            counted = log.appended()
            assert {key: records for key, (records, _) in counted.items()} == {
                ("shop", FactKind.EVENT): 2,
                ("b", FactKind.EVENT): 1,
            }
            log.seal()
            log.append([event(3)])
            assert log.appended()["shop", FactKind.EVENT][0] == 3

    def test_capabilities_name_the_backend(self, make_log: MakeLog) -> None:
        with make_log() as log:
            assert log.capabilities.backend
            assert log.capabilities == log.capabilities

    # --- system names -------------------------------------------------------------------------------

    def test_systems_may_have_any_name(self, make_log: MakeLog) -> None:
        facts = [event(n, system=system) for n, system in enumerate(HOSTILE_SYSTEMS)]
        with make_log() as log:
            log.append(facts)
            assert facts_of(log) == facts
            assert log.stats().systems == tuple(sorted(HOSTILE_SYSTEMS))
            for at, entry in enumerate(list(log.read())):
                assert facts_of(log, after=entry.cursor) == facts[at + 1 :]
            for fact in facts:
                with make_log(system=fact.system) as one:
                    assert facts_of(one) == [fact]
                    assert one.stats().systems == (fact.system,)

    def test_a_system_name_that_is_no_unicode_is_escaped(self, make_log: MakeLog) -> None:
        with (
            make_log() as log,
            make_log(system=_SURROGATE) as asked,
            make_log(system=r"lone \ud800 surrogate") as told,
        ):
            log.append([event(0, system=_SURROGATE), event(1, system=_SURROGATE)])
            expected = [event(n, system=r"lone \ud800 surrogate") for n in range(2)]
            assert facts_of(log) == facts_of(asked) == facts_of(told) == expected
            assert log.stats().systems == (r"lone \ud800 surrogate",)
            assert facts_of(log, after=next(iter(log.read())).cursor) == expected[1:]

    # --- ends ---------------------------------------------------------------------------------------

    def test_a_closed_log_says_so(self, make_log: MakeLog) -> None:
        log = make_log()
        log.append([event(0)])
        log.close()
        log.close()
        calls: tuple[Callable[[], object], ...] = (
            log.prepare,
            lambda: log.append([event(1)]),
            lambda: log.append([]),
            log.read,
            log.stats,
            log.flush,
        )
        for call in calls:
            error = _raised(LogUnavailable, call)
            assert isinstance(error, LogUnavailable)
            assert error.error_type == "closed"
        log.seal()
        assert log.appended()["shop", FactKind.EVENT][0] == 1
        assert log.reserve("shop", FactKind.EVENT)[1] == 1

    def test_leaving_the_with_block_closes(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.prepare()
        _raised(LogUnavailable, log.read)

    def test_reading_is_lazy(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([event(n) for n in range(10)])
            reading: Iterator[Entry] = iter(log.read())
            first = [entry.fact.attributes["n"] for entry in islice(reading, 3)]
            log.append([event(10)])
            rest = [entry.fact.attributes["n"] for entry in reading]
            assert first + rest in (list(range(10)), list(range(11)))

    # --- inside -------------------------------------------------------------------------------------

    @staticmethod
    def _fill(one: FactLog, two: FactLog) -> None:
        """Let two writers write all kinds, with equal times, in several segments where there are such."""
        for n in range(24):
            (one, two)[n % 2].append([make_fact(n, time_unix_nano=FIRST_UNIX_NANO + n // 3)])
            if n % 7 == 6:
                one.seal()
        one.append([make_fact(n) for n in range(24, 36)])

    @staticmethod
    def _agrees(log: FactLog, expected: list[Fact]) -> None:
        """Check both directions, and resuming after every entry."""
        for newest_first, step in ((False, 1), (True, -1)):
            entries = list(log.read(newest_first=newest_first))
            assert [anonymous(entry.fact) for entry in entries] == expected[::step]
            for at, entry in enumerate(entries):
                rest = log.read(newest_first=newest_first, after=entry.cursor)
                assert [e.fact for e in rest] == [e.fact for e in entries[at + 1 :]]

    @staticmethod
    def _appended_bytes(log: FactLog) -> int:
        return sum(size for _, size in log.appended().values())
