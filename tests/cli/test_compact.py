from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from cli.support import NANOS, NOON, Done, HandMadeLog, fact
from papyra_otel import FactKind
from papyra_otel.errors import CompactionRefused, LogBusy
from papyra_otel.log.retention import parse_retention
from papyra_otel.reports import CompactionReport, GroupHold, Skipped, StreamCompaction

Run = Callable[..., Done]
Make = Callable[..., HandMadeLog]

STREAMS = (
    StreamCompaction(
        system="shop",
        kind=FactKind.EVENT,
        records_removed=1200,
        records_kept=34,
        bytes_freed=2048,
        segments_removed=3,
        segments_replaced=1,
    ),
    StreamCompaction(system="shop", kind=FactKind.AUDIT, records_kept=5),
)


def test_what_was_removed_is_told_by_stream(run: Run, hand_made: Make) -> None:
    skipped = (Skipped(place="shop/events/9.ndjson", reason="its writer is alive"),)
    hand_made(
        compact=CompactionReport(dry_run=False, streams=STREAMS, skipped=skipped, kept_in=("q.ndjson",))
    )
    done = run("compact", "--retention", "events=34")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["SYSTEM", "KIND", "REMOVED", "KEPT", "FREED"],
        ["shop", "event", "1,200", "34", "2.0", "KiB"],
        ["shop", "audit", "0", "5", "-"],
    ]
    assert lines[4:] == [
        "damaged bytes kept in q.ndjson",
        "left shop/events/9.ndjson",
        "  its writer is alive",
        "Removed 1,200 facts, 2.0 KiB.",
    ]


def test_what_consumer_groups_held_back_or_lost_is_told(run: Run, hand_made: Make) -> None:
    def told(*, lost: bool, dry_run: bool = False) -> list[str]:
        groups = (
            GroupHold(system="shop", kind=FactKind.EVENT, group="mailer", unread=3, pending=1, lost=lost),
            GroupHold(system="shop", kind=FactKind.AUDIT, group="idle", unread=1200, pending=0, lost=lost),
        )
        hand_made(compact=CompactionReport(dry_run=dry_run, streams=STREAMS, groups=groups))
        return run("compact", "--retention", "events=34").out.splitlines()[4:6]

    assert told(lost=False) == [
        "consumer group mailer holds back 3 facts not read and 1 fact not acknowledged (shop events)",
        "consumer group idle holds back 1,200 facts not read (shop audits)",
    ]
    assert told(lost=True)[1] == "consumer group idle lost 1,200 facts not read (shop audits)"
    assert (
        told(lost=True, dry_run=True)[1]
        == "consumer group idle would lose 1,200 facts not read (shop audits)"
    )


def test_a_dry_run_says_what_would_be_removed_and_how_to_do_it(run: Run, hand_made: Make) -> None:
    hand_made(compact=CompactionReport(dry_run=True, streams=STREAMS))
    lines = run("compact", "--log", "hand:", "--retention", "events=34;audits=7d", "--force", "--dry-run").out
    assert lines.splitlines()[-2:] == [
        "Would remove 1,200 facts, 2.0 KiB. This was a dry run: nothing was changed.",
        "To do it: papyra-otel compact --log hand: --retention 'events=34;audits=7d' --force",
    ]


def test_nothing_to_remove(run: Run, hand_made: Make) -> None:
    log = hand_made(compact=CompactionReport(dry_run=False, streams=STREAMS[1:]))
    assert run("compact", "--retention", "7d").out.splitlines()[-1].startswith("Nothing to remove: ")
    log.reports["compact"] = CompactionReport(dry_run=False)
    assert run("compact", "--retention", "7d").out.splitlines()[0].startswith("Nothing to remove: ")


# --- what stays --------------------------------------------------------------------------------------


def test_the_retention_is_that_of_the_option_else_of_the_environment(
    run: Run, hand_made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = hand_made(compact=CompactionReport(dry_run=False))
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_RETENTION", "events=7d")
    run("compact")
    run("compact", "--retention", "audits=3", "--force", "--dry-run")
    assert log.asked == [
        ("compact", (parse_retention("events=7d"), False), {"dry_run": False}),
        ("compact", (parse_retention("audits=3"), True), {"dry_run": True}),
    ]


@pytest.mark.parametrize("variable", [None, "", ";"])
@pytest.mark.parametrize("option", [[], ["--retention", ""], ["--retention", " ; "]])
def test_without_any_limit_nothing_is_removed_and_it_says_what_to_write(
    variable: str | None, option: list[str], a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("OTEL_PYTHON_PAPYRA_RETENTION", variable)
    done = run("compact", "--log", a_day, *option)
    assert (done.code, done.out) == (2, "")
    assert (
        "write --retention 'events=7d,1GiB;dead_letters=90d', or set OTEL_PYTHON_PAPYRA_RETENTION" in done.err
    )
    assert done.err.count("\n") == 1


def test_an_option_without_limit_does_not_fall_back_to_the_environment(
    a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_RETENTION", "1")
    assert run("compact", "--log", a_day, "--retention", "").code == 2


# --- for programs ------------------------------------------------------------------------------------


def test_json_has_exactly_the_documented_members(run: Run, hand_made: Make) -> None:
    report = CompactionReport(
        dry_run=False,
        streams=STREAMS[:1],
        skipped=(Skipped(place="p", reason="r"),),
        kept_in=("q.ndjson",),
        recorded=(fact(name="papyra.log.compacted").identified("9f2c41d07be3a815", 7),),
        groups=(GroupHold(system="shop", kind=FactKind.AUDIT, group="g", unread=2, pending=1, lost=True),),
        duration_seconds=0.5,
    )
    hand_made(compact=report)
    done = run("compact", "--log", "hand:", "--retention", "1", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    assert json.loads(done.out) == {
        "log": "hand:",
        "dry_run": False,
        "records_removed": 1200,
        "bytes_freed": 2048,
        "streams": [
            {
                "system": "shop",
                "kind": "event",
                "records_removed": 1200,
                "records_kept": 34,
                "bytes_freed": 2048,
                "segments_removed": 3,
                "segments_replaced": 1,
            }
        ],
        "kept_in": ["q.ndjson"],
        "skipped": [{"place": "p", "reason": "r"}],
        "recorded": ["9f2c41d07be3a815-event-7"],
        "groups": [
            {"system": "shop", "kind": "audit", "group": "g", "unread": 2, "pending": 1, "lost": True}
        ],
        "duration_seconds": 0.5,
    }


# --- trouble -----------------------------------------------------------------------------------------


def test_a_refusal_is_no_wrong_usage(run: Run, hand_made: Make) -> None:
    hand_made(compact=CompactionRefused("the clock may have jumped; compact with --force"))
    said = "papyra-otel: error: the clock may have jumped; compact with --force\n"
    assert run("compact", "--retention", "7d") == Done(1, "", said)
    done = run("compact", "--log", "hand:", "--retention", "7d", "--json", "--dry-run")
    assert (done.code, done.err) == (1, said)
    assert done.objects == [
        {"log": "hand:", "dry_run": True, "refused": "the clock may have jumped; compact with --force"}
    ]


def test_a_log_that_is_busy_is_told_in_one_line(run: Run, hand_made: Make) -> None:
    hand_made(compact=LogBusy("another process is compacting it"))
    assert run("compact", "--retention", "7d") == Done(
        2, "", "papyra-otel: error: another process is compacting it\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Interrupted. What readers see is the same; the next run removes the rest.\n"),
        (["--dry-run"], ""),
    ],
)
def test_ctrl_c_says_what_it_means(options: list[str], said: str, run: Run, hand_made: Make) -> None:
    hand_made(compact=KeyboardInterrupt())
    assert run("compact", "--retention", "7d", *options) == Done(130, "", said)


# --- on a real log -----------------------------------------------------------------------------------


def test_what_retention_hides_is_removed(written: Any, run: Run) -> None:
    url = written(*(fact(n) for n in range(100)))
    trial = run("compact", "--log", url, "--retention", "events=10", "--dry-run", "--json")
    assert trial.objects[0]["records_removed"] > 0
    assert run("stats", "--log", url, "--json").objects[0]["kinds"]["event"]["records"] == 100
    shown = run("facts", "--log", url, "--retention", "events=10").out
    done = run("compact", "--log", url, "--retention", "events=10", "--json")
    assert done.code == 0
    assert done.objects[0]["records_removed"] == trial.objects[0]["records_removed"]
    assert "log.compacted" in run("facts", "--log", url).out
    for line in shown.splitlines()[2:]:
        assert line in run("facts", "--log", url).out
    assert run("scan", "--log", url).code == 0


def test_a_wrong_clock_is_refused_and_force_does_it(written: Any, run: Run) -> None:
    a_year_ago = (time.time_ns() - NOON) // NANOS - 365 * 86_400
    url = written(*(fact(a_year_ago + n) for n in range(100)))
    done = run("compact", "--log", url, "--retention", "7d")
    assert (done.code, done.out) == (1, "")
    assert "--force" in done.err
    assert run("compact", "--log", url, "--retention", "7d", "--force").code == 0
    assert "Removed " not in run("compact", "--log", url, "--retention", "7d").out
