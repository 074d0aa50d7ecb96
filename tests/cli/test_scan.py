from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.support import Done, HandMadeLog, fact, report_of
from papyra_otel import FactKind
from papyra_otel.cli import findings
from papyra_otel.cli.text import width
from papyra_otel.errors import LogUnavailable, NotSupported
from papyra_otel.reports import ANOMALY_SEVERITIES, Anomaly, ScanReport, StreamScan

Run = Callable[..., Done]
Make = Callable[..., HandMadeLog]


# --- what it ends with ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "code", "verdict"),
    [
        ([], 0, "Healthy."),
        (["clock_jump", "future_version"], 0, "Healthy."),
        (["torn_tail"], 1, "Not damaged, but look at it: 1 anomaly."),
        (["torn_tail", "clock_jump", "duplicate"], 1, "Not damaged, but look at it: 2 anomalies."),
        (["gap"], 1, "Damaged: 1 anomaly is damage or loss."),
        (["gap", "crc_mismatch"], 1, "Damaged: 2 anomalies are damage or loss."),
        (["gap", "torn_tail", "clock_jump"], 1, "Damaged: 1 of 2 anomalies is damage or loss."),
    ],
)
def test_the_exit_code_and_the_verdict(
    types: list[str], code: int, verdict: str, run: Run, hand_made: Make
) -> None:
    hand_made(scan=report_of(*types))
    done = run("scan", "--log", "hand:")
    assert (done.code, done.err) == (code, "")
    assert verdict in done.out.splitlines()
    assert ("papyra-otel recover --log hand: --dry-run" in done.out) is (code == 1)


def test_a_log_that_is_well_is_healthy(a_day: str, run: Run) -> None:
    done = run("scan", "--log", a_day)
    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()[:5]] == [
        ["KIND", "RECORDS", "SIZE", "DAMAGED"],
        ["event", "4", *done.out.splitlines()[1].split()[2:4], "-"],
        ["audit", "1", *done.out.splitlines()[2].split()[2:4], "-"],
        ["dead_letter", "1", *done.out.splitlines()[3].split()[2:4], "-"],
        ["all", "6", *done.out.splitlines()[4].split()[2:4], "-"],
    ]
    assert done.out.splitlines()[6] == "Healthy."


def test_damage_is_counted_placed_and_led_on_from(damaged: str, run: Run, tmp_path: Path) -> None:
    done = run("scan", "--log", damaged, "--system", "shop")
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    (events,) = tmp_path.glob("facts/shop/events/*.ndjson")
    offset = events.read_bytes().index(b"\n") + 1
    length = len(events.read_bytes().splitlines(keepends=True)[1])
    assert lines[1].split()[:3] == ["ERROR", "crc_mismatch", "1"]
    assert any(line.split()[:2] == ["WARN", "unexpected_file"] for line in lines)
    at = lines.index(f"shop/events/{events.name}")
    assert lines[at + 1].split()[:2] == ["crc_mismatch", f"{offset}+{length}"]
    assert r"shop/events/b\udcffd.txt" in lines
    assert lines[-1] == f"Next: papyra-otel recover --log {damaged} --system shop --dry-run"


def test_scanning_changes_nothing(damaged: str, run: Run, tmp_path: Path) -> None:
    def everything() -> dict[str, tuple[int, bytes]]:
        files = [path for path in (tmp_path / "facts").rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = everything()
    for options in ([], ["--json"], ["--incremental"], ["--quiet"]):
        run("scan", "--log", damaged, *options)
    assert everything() == before


def test_a_newer_version_is_kept_and_no_reason_to_worry(run: Run, hand_made: Make) -> None:
    stream = StreamScan(records=1, size_bytes=500, good_bytes=100, newer_bytes=400)
    hand_made(scan=report_of("future_version", streams={FactKind.EVENT: stream}))
    done = run("scan")
    assert done.code == 0
    assert "INFO   future_version      1  lines of a newer papyra-otel: kept, not read" in done.out
    assert "NEWER" in done.out
    assert "400 B" in done.out


# --- what is said ------------------------------------------------------------------------------------


def test_every_type_of_anomaly_is_explained() -> None:
    assert set(findings._MEANINGS) == set(ANOMALY_SEVERITIES)


def test_of_many_places_the_first_of_each_type_are_shown_and_the_rest_counted(
    run: Run, hand_made: Make
) -> None:
    types = ["gap"] * 9 + ["torn_tail"] * 2
    hand_made(scan=report_of(*types, counts={"gap": 5000, "torn_tail": 2}))
    lines = run("scan").out.splitlines()
    assert sum(line.startswith("  gap ") for line in lines) == 3
    assert sum(line.startswith("  torn_tail ") for line in lines) == 2
    assert "and 4,997 more; --json lists the first 11" in lines


def test_types_that_were_not_found_are_not_listed(run: Run, hand_made: Make) -> None:
    hand_made(scan=report_of(counts={"gap": 0, "torn_tail": 0}, systems=("shop",)))
    for options in ([], ["--json"]):
        assert not {"gap", "torn_tail"} & set(re.findall(r"\w+", run("scan", *options).out))


def test_the_worst_is_told_first(run: Run, hand_made: Make) -> None:
    hand_made(scan=report_of("clock_jump", "torn_tail", "gap"))
    lines = run("scan").out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["ERROR", "WARN", "INFO"]


def test_what_was_passed_over_or_left_unread_is_said(run: Run, hand_made: Make) -> None:
    log = hand_made(
        scan=report_of(places=9, places_remembered=1, places_unread=3, writers=2, read_bytes=2048)
    )
    done = run("scan", "--incremental")
    assert log.asked == [("scan", {"incremental": True})]
    last = done.out.splitlines()[-1]
    assert last.startswith("Read 2.0 KiB in 9 places of 2 writers, ")
    assert last.endswith("1 was verified before and passed over. 3 were left unread for lack of time.")


def test_quiet_is_silent_of_a_healthy_log_only(run: Run, hand_made: Make) -> None:
    log = hand_made(scan=report_of("clock_jump"))
    assert run("scan", "--quiet") == Done(0, "", "")
    assert run("scan", "--quiet", "--json").out != ""
    log.reports["scan"] = report_of("gap")
    assert "Damaged" in run("scan", "--quiet").out


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_fit_the_terminal_except_paths_and_commands(
    columns: int, damaged: str, on_terminal: Callable[..., Done]
) -> None:
    done = on_terminal("scan", "--log", damaged, columns=columns)
    assert done.code == 1
    plain = [line for line in _without_colours(done.out).splitlines() if "/" not in line]
    assert max(map(width, plain)) <= columns
    assert "…" not in "".join(plain)


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_credentials_are_not_shown(run: Run, hand_made: Make) -> None:
    hand_made(scan=report_of("gap"))
    for options in ([], ["--json"]):
        assert "secret" not in run("scan", "--log", "redis://me:secret@host/0", *options).out


# --- for programs ------------------------------------------------------------------------------------


def test_json_has_exactly_the_documented_members(run: Run, hand_made: Make) -> None:
    stream = StreamScan(
        records=2,
        size_bytes=15,
        good_bytes=1,
        mark_bytes=2,
        newer_bytes=3,
        damaged_bytes=4,
        in_flight_bytes=5,
    )
    anomaly = Anomaly(
        type="gap", place="p", detail="d", offset=1, length=0, system="s", kind=FactKind.AUDIT, writer="w"
    )
    report = ScanReport(
        backend="hand",
        counts={"gap": 1, "duplicate": 0},
        anomalies=(anomaly, Anomaly(type="gap", place="p", detail="d")),
        streams={FactKind.EVENT: stream},
        systems=("s",),
        writers=1,
        places=3,
        places_remembered=1,
        places_unread=2,
        read_bytes=15,
        duration_seconds=0.25,
    )
    hand_made(scan=report)
    done = run("scan", "--log", "hand:", "--json")
    nothing = dict.fromkeys(
        [
            "records",
            "bytes",
            "good_bytes",
            "mark_bytes",
            "newer_bytes",
            "damaged_bytes",
            "in_flight_bytes",
        ],
        0,
    )
    assert (done.code, done.err, done.out.count("\n")) == (1, "", 1)
    assert json.loads(done.out) == {
        "log": "hand:",
        "backend": "hand",
        "healthy": False,
        "damaged": True,
        "complete": False,
        "systems": ["s"],
        "writers": 1,
        "places": 3,
        "places_remembered": 1,
        "places_unread": 2,
        "read_bytes": 15,
        "duration_seconds": 0.25,
        "kinds": {
            "event": {
                "records": 2,
                "bytes": 15,
                "good_bytes": 1,
                "mark_bytes": 2,
                "newer_bytes": 3,
                "damaged_bytes": 4,
                "in_flight_bytes": 5,
            },
            "audit": nothing,
            "dead_letter": nothing,
        },
        "counts": {"gap": 1},
        "anomalies": [
            {
                "type": "gap",
                "severity": "ERROR",
                "place": "p",
                "offset": 1,
                "length": 0,
                "system": "s",
                "kind": "audit",
                "writer": "w",
                "detail": "d",
            },
            {"type": "gap", "severity": "ERROR", "place": "p", "detail": "d"},
        ],
    }


def test_names_that_are_not_unicode_or_could_control_the_terminal_are_escapes(
    damaged: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "facts" / "shop" / "\x1b[2Jevil").touch()
    for options in ([], ["--json"]):
        done = run("scan", "--log", damaged, *options)
        assert "\x1b" not in done.out
        assert r"b\udcffd.txt" in done.out
    places = {anomaly["place"] for anomaly in run("scan", "--log", damaged, "--json").objects[0]["anomalies"]}
    assert {"shop/events/b\udcffd.txt", "shop/\x1b[2Jevil"} <= places


# --- trouble -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [NotSupported("the hand log cannot scan"), LogUnavailable("gone; come back")]
)
def test_a_log_that_cannot_be_scanned_is_told_in_one_line(
    error: Exception, run: Run, hand_made: Make
) -> None:
    hand_made(scan=error)
    assert run("scan") == Done(2, "", f"papyra-otel: error: {error}\n")


def test_one_system_only(damaged: str, run: Run) -> None:
    assert run("scan", "--log", damaged, "--system", "store").out.splitlines()[-2] == "Healthy."


@pytest.mark.parametrize("verb", ["scan", "recover"])
def test_a_misspelt_system_is_remarked_on(verb: str, a_day: str, run: Run) -> None:
    done = run(verb, "--log", a_day, "--system", "shpo")
    assert (done.code, done.err) == (0, "Nothing has been recorded of a system 'shpo' in this log yet.\n")
    assert run(verb, "--log", a_day, "--system", "shop").err == ""
    assert run(verb, "--log", a_day, "--system", "shpo", "--json").err == ""


def test_a_log_being_written_is_healthy(a_day: str, run: Run) -> None:
    from papyra_otel import open_log

    with open_log(a_day) as writing:
        writing.append([fact(9)])
        done = run("scan", "--log", a_day, "--json")
    assert done.code == 0
    assert done.objects[0]["kinds"]["event"]["records"] == 5


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1)")
def test_on_a_real_terminal_it_is_the_same(damaged: str) -> None:
    command = f"{sys.executable} -m papyra_otel scan --log {damaged}"
    plain = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        ["script", "-qec", f"stty cols 70; {command}", "/dev/null"],
        env=plain,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = _without_colours(done.stdout).splitlines()
    assert done.returncode == 1
    assert "Next: " in lines[-1]
    assert max(width(line) for line in lines if "/" not in line) <= 70
