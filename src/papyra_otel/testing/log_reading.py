"""What every log promises to those who read."""

# ruff: noqa: D102, PLR2004, S101 - these are tests: their names are the sentences, numbers are the data
from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, cast

from papyra_otel import semconv
from papyra_otel.errors import ConfigError
from papyra_otel.facts import Fact, FactKind
from papyra_otel.testing.capture import FIRST_UNIX_NANO, make_fact
from papyra_otel.testing.log_cases import (
    LogCases,
    MakeLog,
    anonymous,
    event,
    facts_of,
    interrupted,
    raised,
)

__all__ = ["ReadingContract"]


class ReadingContract(LogCases):
    """Order, filters, cursors, following, and what there is in numbers."""

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
            raised(ConfigError, lambda: log.read(kinds=cast("Any", "audits")))

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
            raised(ConfigError, lambda: log.read(limit=-1))

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
            raised(ConfigError, lambda: log.read(after=ascending.cursor, newest_first=True))
            raised(ConfigError, lambda: log.read(after=descending.cursor))
            for garbage in (
                "",
                "garbage",
                "é",
                "\ud800",
                ascending.cursor[:-3],
                "x" * 10_000,
                "f1.",
            ):
                raised(ConfigError, partial(log.read, after=garbage))

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
            raised(ConfigError, lambda: list(log.follow(kinds=cast("Any", "events"))))
            raised(InterruptedError, lambda: list(log.follow(wait=interrupted)))

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
