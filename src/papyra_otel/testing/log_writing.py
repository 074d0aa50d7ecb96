"""What every log promises to those who append."""

# ruff: noqa: D102, PLR2004, S101 - these are tests: their names are the sentences, numbers are the data
from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Entry, FactKind
from papyra_otel.testing.capture import make_fact
from papyra_otel.testing.log_cases import (
    HOSTILE_SYSTEMS,
    SURROGATE,
    LogCases,
    MakeLog,
    event,
    facts_of,
    raised,
)

__all__ = ["WritingContract"]


class WritingContract(LogCases):
    """Facts arrive, each once, under one name for ever, whatever is in them."""

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
                raised(ValueError, partial(log.append, [fact]))
                raised(ValueError, partial(log.append, [event(1), event(2), fact]))
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
            make_log(system=SURROGATE) as asked,
            make_log(system=r"lone \ud800 surrogate") as told,
        ):
            log.append([event(0, system=SURROGATE), event(1, system=SURROGATE)])
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
            error = raised(LogUnavailable, call)
            assert isinstance(error, LogUnavailable)
            assert error.error_type == "closed"
        log.seal()
        assert log.appended()["shop", FactKind.EVENT][0] == 1
        assert log.reserve("shop", FactKind.EVENT)[1] == 1

    def test_leaving_the_with_block_closes(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.prepare()
        raised(LogUnavailable, log.read)

    def test_reading_is_lazy(self, make_log: MakeLog) -> None:
        with make_log() as log:
            log.append([event(n) for n in range(10)])
            reading: Iterator[Entry] = iter(log.read())
            first = [entry.fact.attributes["n"] for entry in islice(reading, 3)]
            log.append([event(10)])
            rest = [entry.fact.attributes["n"] for entry in reading]
            assert first + rest in (list(range(10)), list(range(11)))
