from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.support import DAY, NOON, Done, fact
from papyra_otel import Fact, FactKind, open_log, semconv
from papyra_otel.cli.details import actor_text, detail_text, name_text
from papyra_otel.cli.text import neutral, width

Run = Callable[..., Done]


# --- for programs -----------------------------------------------------------------------------------


def test_json_is_one_object_a_line_with_exactly_the_documented_members(a_day: str, run: Run) -> None:
    done = run("facts", "--log", a_day, "--json")
    assert (done.code, done.err) == (0, "")
    always = {"uid", "kind", "name", "time", "system", "severity", "attributes", "cursor"}
    of_an_actor = always | {"actor"}
    assert [set(found) for found in done.objects] == [
        always,
        of_an_actor,
        of_an_actor | {"trace_id", "span_id"},
        of_an_actor,
        always,
        always,
    ]


def test_json_tells_the_fact_as_it_was_recorded(a_day: str, run: Run) -> None:
    crash = run("facts", "--log", a_day, "--json").objects[2]
    assert re.fullmatch(r"[0-9a-f]{16}-event-2", crash.pop("uid"))
    assert crash.pop("cursor").startswith("f1.")
    assert crash == {
        "kind": "event",
        "name": "papyra.actor.exception",
        "time": "2026-11-22T12:02:00.000000000Z",
        "system": "shop",
        "actor": "shop:1",
        "severity": "ERROR",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "attributes": dict(DAY[2].attributes),
    }


# --- which facts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("--kind audit", [4]),
        ("--kind events", [0, 1, 2, 5]),
        ("--kind Dead-Letters --kind audits", [3, 4]),
        ("--system store", [3]),
        ("--actor shop:1", [1, 2]),
        ("--actor urn:uuid:1c9e0a52-7b1d-4c55-9a3e-2f1f0c6d8e11", [3]),
        ("--actor 1c9e0a52-7b1d-4c55-9a3e-2f1f0c6d8e11", [3]),
        ("--name papyra.actor.started", [1]),
        ("--name actor.started", [1]),
        ("--name order.placed", [5]),
        ("--name placed", []),
        ("--since 2026-11-22T12:02:00Z", [2, 3, 4, 5]),
        ("--since 2026-11-22T12:02:00.000000001", [3, 4, 5]),
        ("--since 2026-11-22T14:02:00+02:00", [2, 3, 4, 5]),
        ("--since 2026-11-23", [5]),
        ("--since 58m", [2, 3, 4, 5]),
        ("--until 2026-11-22T12:02:00Z", [0, 1]),
        ("--since 59m --until 57m", [1, 2]),
        ("--limit 2", [0, 1]),
        ("--limit 0", [0, 1, 2, 3, 4, 5]),
        ("--last 2", [4, 5]),
        ("--last 0", []),
        ("--last 9", [0, 1, 2, 3, 4, 5]),
        ("--newest-first", [5, 4, 3, 2, 1, 0]),
        ("--newest-first --limit 2", [5, 4]),
        ("--newest-first --last 2", [5, 4]),
        ("--kind event --last 2", [2, 5]),
        ("--retention events=1", [3, 4, 5]),
    ],
)
def test_filters_choose(options: str, wanted: list[int], a_day: str, run: Run) -> None:
    done = run("facts", "--log", a_day, "--json", *options.split())
    assert done.code == 0
    assert [found["name"] for found in done.objects] == [DAY[n].name for n in wanted]


def test_the_retention_of_the_environment_hides_and_the_option_wins(
    a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_RETENTION", "events=1")
    assert len(run("facts", "--log", a_day, "--json").objects) == 3
    assert len(run("facts", "--log", a_day, "--json", "--retention", "events=2").objects) == 4


def test_the_log_of_the_environment_is_the_default(
    a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_LOG", a_day)
    assert len(run("facts", "--json").objects) == len(DAY)


def test_the_system_of_the_environment_is_the_recorders_business(
    a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_SYSTEM", "store")
    assert len(run("facts", "--log", a_day, "--json").objects) == len(DAY)


@pytest.mark.parametrize("direction", [[], ["--newest-first"]])
def test_a_cursor_resumes_just_past_its_fact(direction: list[str], a_day: str, run: Run) -> None:
    everything = run("facts", "--log", a_day, "--json", *direction).objects
    for index, found in enumerate(everything):
        rest = run("facts", "--log", a_day, "--json", "--after", found["cursor"], *direction).objects
        assert [o["uid"] for o in rest] == [o["uid"] for o in everything[index + 1 :]]


# --- for people -------------------------------------------------------------------------------------


def test_the_table_tells_who_did_what_and_why(a_day: str, run: Run) -> None:
    done = run("facts", "--log", a_day)
    assert (done.code, done.err) == (0, "")
    assert [re.split(r"\s{2,}", line) for line in done.out.splitlines()] == [
        ["TIME (UTC)", "LEVEL", "FACT", "ACTOR", "DETAIL"],
        ["2026-11-22T12:00:00.000000000Z", "INFO", "system.started", "shop", "papyra 0.3"],
        ["2026-11-22T12:01:00.000000000Z", "INFO", "actor.started", "Clerk shop:1", "named anna"],
        [
            "2026-11-22T12:02:00.000000000Z",
            "ERROR",
            "actor.exception",
            "Clerk shop:1",
            "ValueError: no such article (in receive)",
        ],
        [
            "2026-11-22T12:03:00.000000000Z",
            "WARN",
            "dead_letter.captured",
            "Robot 1c9e0a52-7b1d-4c55-9a3e-2f1f0c6d8e11",
            "actor_stopped: tell Pick",
        ],
        [
            "2026-11-22T12:04:00.000000000Z",
            "INFO",
            "audit.completed",
            "shop",
            "UNHEALTHY: 1 dead actor in the registry, 1 of 2 actors alive, 1 dead letter",
        ],
        ["2026-11-23T12:00:00.000000000Z", "INFO", "order.placed", "shop", "order=7"],
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 140])
def test_the_table_fits_its_width(
    columns: int, a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run("facts", "--log", a_day).out.splitlines()
    assert max(map(width, lines)) <= columns + (20 if columns < 60 else 0)
    assert [line for line in lines if line.startswith("──")] == [
        f"── {date} ".ljust(columns, "─") for date in ("2026-11-22", "2026-11-23")
    ]


def test_the_table_wraps_long_details_and_says_where_it_cuts(
    written: Any, run: Run, monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    url = written(fact(name="x", attributes={"text": " ".join(f"word{n}" for n in range(60))}))
    lines = run("facts", "--log", url).out.splitlines()
    assert len(lines) == 2 + 3
    assert lines[-1].endswith("…")
    shown = " ".join(line.split(maxsplit=0)[0].strip() for line in lines[2:])
    assert "word0 word1 word2" in shown


def test_a_pipe_gets_everything_however_long(written: Any, run: Run) -> None:
    url = written(*(fact(n, name="x", attributes={"text": "y" * n}) for n in range(400)))
    lines = run("facts", "--log", url).out.splitlines()
    assert len(lines) == 401
    assert lines[-1].endswith("text=" + "y" * 399)


def test_a_terminal_gets_the_newest_and_is_told_so(written: Any, on_terminal: Run) -> None:
    url = written(*(fact(n, attributes={"papyra.actor.name": f"n{n}."}) for n in range(51)))
    done = on_terminal("facts", "--log", url)
    assert re.findall(r"n\d+\.", done.out) == [f"n{n}." for n in range(1, 51)]
    assert "The 50 newest; there are older ones: --last N shows more, --limit 0 all." in done.err


@pytest.mark.parametrize("options", [["--limit", "0"], ["--json"], ["--last", "51"], ["--limit", "60"]])
def test_a_terminal_gets_all_when_asked(options: list[str], written: Any, on_terminal: Run) -> None:
    url = written(*(fact(n, attributes={"papyra.actor.name": f"n{n}."}) for n in range(51)))
    done = on_terminal("facts", "--log", url, *options)
    assert re.findall(r"n\d+\.", done.out) == [f"n{n}." for n in range(51)]
    assert done.err == ""


def test_fifty_facts_are_all_there_are_and_need_no_remark(written: Any, on_terminal: Run) -> None:
    done = on_terminal("facts", "--log", written(*(fact(n) for n in range(50))))
    assert done.out.count("actor.started") == 50
    assert done.err == ""


def test_a_terminal_has_colours(a_day: str, on_terminal: Run) -> None:
    out = on_terminal("facts", "--log", a_day).out
    assert "\x1b[1;31mERROR\x1b[0m" in out
    assert "\x1b[33mWARN\x1b[0m" in out


@pytest.mark.parametrize("why", ["NO_COLOR", "TERM", "no rich"])
def test_without_colours_the_lines_are_the_same(
    why: str, a_day: str, on_terminal: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = on_terminal("facts", "--log", a_day).out
    if why == "no rich":
        monkeypatch.setitem(__import__("sys").modules, "rich.color", None)
    monkeypatch.setenv(why, "dumb")
    plain = on_terminal("facts", "--log", a_day).out
    assert "\x1b" in coloured
    assert plain == re.sub(r"\x1b\[[0-9;]*m", "", coloured)


def test_nothing_to_show_is_said(written: Any, run: Run) -> None:
    url = written()
    assert "nothing has been recorded" in run("facts", "--log", url).err
    url = written(fact())
    assert (
        run("facts", "--log", url, "--system", "nowhere").err
        == "No facts: nothing has been recorded of a system 'nowhere' in this log.\n"
    )
    no_match = run("facts", "--log", url, "--name", "other")
    assert (no_match.code, no_match.out, no_match.err) == (0, "", "No facts match.\n")
    assert run("facts", "--log", url, "--name", "other", "--json").err == ""


# --- whatever a fact holds --------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\n\u202eback\u2066[bold]markup[/bold]\ud800"


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_escape_sequences_in_facts_do_not_reach_the_terminal(written: Any, run: Run) -> None:
    url = written(
        fact(
            name=f"evil{EVIL}",
            actor=f"actor{EVIL}",
            severity="\x1b[5mBLINK",
            attributes={EVIL: EVIL, "papyra.actor.type": EVIL},
        )
    )
    for options in ([], ["--json"]):
        done = run("facts", "--log", url, *options)
        assert done.code == 0
        assert harmless(done.out)
        assert done.out.count("\n") == (1 if options else 2)
    assert "[bold]markup[/bold]" in run("facts", "--log", url).out
    assert json.loads(run("facts", "--log", url, "--json").out)["actor"].startswith("actor\x1b]0;owned\x07")


def test_escape_sequences_in_what_is_asked_for_do_not_either(written: Any, run: Run) -> None:
    url = written(fact())
    assert harmless(run("facts", "--log", url, "--system", f"evil{EVIL[:-1]}").err)
    wrong = run("facts", "--log", "evil\x1b[31m\nline")
    assert wrong.code == 2
    assert harmless(wrong.err)
    assert wrong.err.count("\n") == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OWN_NAMES = [value for value in vars(semconv).values() if isinstance(value, str)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(OWN_NAMES) | st.text(),
    kind=st.sampled_from(list(FactKind)),
    attributes=st.dictionaries(st.sampled_from(OWN_NAMES) | st.text(), VALUES, max_size=12),
)
def test_any_attributes_can_be_shown(name: str, kind: FactKind, attributes: dict[str, Any]) -> None:
    shown = Fact(kind=kind, name=name, time_unix_nano=NOON, system="s", attributes=attributes)
    for text in (name_text(shown), actor_text(shown), detail_text(shown)):
        assert neutral(text).isprintable()


@pytest.mark.parametrize(
    ("name", "attributes", "shown"),
    [
        (
            "papyra.actor.started",
            {"papyra.actor.incarnation": 0, "papyra.actor.parent": "s:1"},
            "child of s:1",
        ),
        ("papyra.actor.started", {"papyra.actor.incarnation": 2}, "incarnation 2"),
        (
            "papyra.actor.stopped",
            {"papyra.actor.stop.reason": "requested", "papyra.actor.lifetime": 7200},
            "requested, lived 2h",
        ),
        ("papyra.actor.restarted", {"papyra.actor.incarnation": 1}, "incarnation 1"),
        (
            "papyra.supervision.decided",
            {
                "papyra.supervision.directive": "restart",
                "papyra.supervision.source": "policy",
                "papyra.supervision.outcome": "restarted",
                "papyra.supervision.restart.count": 1,
                "papyra.supervision.restart.limit": 3,
                "papyra.supervision.restart.window": 60.0,
            },
            "restart → restarted, restarts 1 of 3 in 1min, by policy",
        ),
        (
            "papyra.supervision.decided",
            {
                "papyra.supervision.directive": "give_up",
                "papyra.supervision.source": "policy",
                "papyra.supervision.outcome": "retries_exhausted",
                "papyra.supervision.restart.count": 3,
                "papyra.supervision.restart.limit": 3,
            },
            "give_up → retries_exhausted, retries 3 of 3, by policy",
        ),
        ("papyra.actor.declared", {"papyra.mailbox.name": "default"}, "queue default"),
        (
            "papyra.message.processed",
            {
                "papyra.message.kind": "ask",
                "papyra.message.type": "Pay",
                "papyra.message.duration": 0.0012,
                "papyra.message.wait": 3.7e-6,
                "error.type": "ValueError",
            },
            "ask Pay failed: ValueError, took 1.2ms, waited 3.7µs",
        ),
        (
            "papyra.ask.timed_out",
            {"papyra.message.kind": "ask", "papyra.message.type": "Pay", "papyra.message.duration": 5},
            "ask Pay, gave up after 5s",
        ),
        (
            "papyra.audit.completed",
            {
                "papyra.audit.healthy": True,
                "papyra.audit.mailbox.total": 3,
                "papyra.audit.mailbox.top": ["urn:uuid:1c=2", "b=1"],
            },
            "healthy: 3 messages waiting (1c=2, b=1)",
        ),
        (
            "papyra.fact.dropped",
            {"papyra.fact.dropped.count": 12, "papyra.fact.dropped.by_kind": ["event=11", "audit=1"]},
            "12 facts lost: event=11, audit=1",
        ),
        (
            "papyra.log.scanned",
            {
                "papyra.scan.by_type": ["gap=1", "torn_tail=2"],
                "papyra.scan.places": 7,
                "papyra.scan.places_unread": 2,
                "papyra.scan.duration": 0.5,
            },
            "gap=1, torn_tail=2, 7 files, 2 left unread, took 500ms",
        ),
        (
            "papyra.log.scanned",
            {"papyra.scan.by_type": [], "papyra.scan.places": 1, "papyra.scan.places_unread": 0},
            "nothing wrong, 1 file",
        ),
        (
            "papyra.log.anomaly",
            {
                "papyra.anomaly.type": "crc_mismatch",
                "papyra.anomaly.place": "s/events/x.ndjson",
                "papyra.anomaly.offset": 40,
                "papyra.anomaly.detail": "the checksum should be 1",
            },
            "crc_mismatch in s/events/x.ndjson at 40: the checksum should be 1",
        ),
        (
            "papyra.log.recovered",
            {
                "papyra.recovery.mode": "repair",
                "papyra.recovery.segments": 2,
                "papyra.recovery.repaired.lines": 1,
                "papyra.recovery.quarantined.spans": 0,
            },
            "repair: 2 files rewritten, 1 line repaired, 0 damaged spans kept",
        ),
        (
            "papyra.log.compacted",
            {"papyra.compaction.records": 18, "papyra.compaction.bytes": 8800},
            "18 facts removed, 8800 bytes",
        ),
        (
            "other",
            {"papyra.system.id": "s", "a": 1, "papyra.b": [1, "x"], "c": "d e"},
            'a=1 b=[1, "x"] c=d e',
        ),
    ],
)
def test_details_tell_what_matters(name: str, attributes: dict[str, Any], shown: str) -> None:
    assert detail_text(fact(name=name, attributes=attributes)) == shown


def test_a_kind_that_the_name_does_not_tell_is_shown() -> None:
    assert name_text(fact(name="disk.checked", kind=FactKind.AUDIT)) == "audit: disk.checked"


# --- following --------------------------------------------------------------------------------------


class Waits:
    """Stands where sleeping stands: does one thing each time, then presses Ctrl-C."""

    def __init__(self, *doings: Callable[[], object]) -> None:
        self._doings = iter(doings)

    def __call__(self, seconds: float) -> None:
        assert seconds > 0
        doing = next(self._doings, None)
        if doing is None:
            raise KeyboardInterrupt
        doing()


def appends(url: str, *facts: Fact) -> Callable[[], None]:
    def append() -> None:
        with open_log(url) as log:
            log.append(facts)

    return append


def test_follow_shows_the_last_facts_and_then_new_ones_of_any_writer(written: Any, run: Run) -> None:
    names = (f"n{n}" for n in count())
    url = written(*(fact(n, next(names)) for n in range(12)))
    late = appends(url, fact(5, next(names)))  # another writer, with a clock that is behind
    later = appends(url, fact(20, next(names)), fact(21, next(names)))
    done = run("facts", "--log", url, "--follow", "--json", wait=Waits(late, lambda: None, later))
    assert done.code == 130
    assert [found["name"] for found in done.objects] == [f"n{n}" for n in range(2, 15)]
    assert done.err == ""


@pytest.mark.parametrize(("options", "first"), [("--last 1", 2), ("--last 0", 3), ("--last 99", 0)])
def test_follow_begins_where_it_is_told(options: str, first: int, written: Any, run: Run) -> None:
    url = written(*(fact(n, f"n{n}") for n in range(3)))
    waits = Waits(appends(url, fact(3, "n3")))
    done = run("facts", "--log", url, "--follow", "--json", *options.split(), wait=waits)
    assert [found["name"] for found in done.objects] == [f"n{n}" for n in range(first, 4)]


def test_follow_after_a_cursor_shows_all_past_it(written: Any, run: Run) -> None:
    url = written(*(fact(n, f"n{n}") for n in range(15)))
    cursor = run("facts", "--log", url, "--json").objects[0]["cursor"]
    done = run("facts", "--log", url, "--follow", "--json", "--after", cursor, wait=Waits())
    assert [found["name"] for found in done.objects] == [f"n{n}" for n in range(1, 15)]


def test_follow_filters_new_facts_too(written: Any, run: Run) -> None:
    url = written(fact(0, actor="a"), fact(1, actor="b"))
    waits = Waits(
        appends(url, fact(2, actor="b"), fact(3, actor="a")),
        appends(url, fact(4, kind=FactKind.AUDIT, actor="a"), fact(5, "x", actor="a"), fact(-9, actor="a")),
    )
    options = ["--actor", "a", "--kind", "event", "--name", "actor.started", "--since", "2026-11-22T12:00:00"]
    done = run("facts", "--log", url, "--follow", "--json", *options, wait=waits)
    assert [found["time"][17:19] for found in done.objects] == ["00", "03"]


def test_follow_as_a_table_has_one_heading(written: Any, on_terminal: Run) -> None:
    url = written(fact(0, "one"))
    done = on_terminal("facts", "--log", url, "--follow", wait=Waits(appends(url, fact(1, "two"))))
    assert done.code == 130
    assert done.out.count("DETAIL") == 1
    assert done.out.index("one") < done.out.index("two")


def test_every_name_that_is_shown_short_may_be_given_short() -> None:
    from papyra_otel import semconv
    from papyra_otel.cli.details import _DETAILS
    from papyra_otel.cli.facts import _OWN_NAMES

    assert set(_DETAILS) == _OWN_NAMES - {semconv.LOG_OPENED, semconv.LOG_SEALED}
