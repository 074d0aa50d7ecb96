from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.support import Done, HandMadeLog, fact, report_of
from papyra_otel.cli import doctor
from papyra_otel.cli.text import width
from papyra_otel.errors import LogTooNew, LogUnavailable, NotSupported
from papyra_otel.pipeline.startup import SCAN_SECONDS_MAX
from papyra_otel.reports import Check

Run = Callable[..., Done]
Make = Callable[..., HandMadeLog]


def checks(done: Done) -> dict[str, dict[str, str]]:
    """The checks of ``--json`` by name."""
    return {check["name"]: check for check in done.objects[0]["checks"]}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- as a whole --------------------------------------------------------------------------------------


def test_all_is_well(a_day: str, run: Run, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    done = run("doctor", "--log", a_day)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[-1] == "Ready to record."
    told = [line.split()[0] for line in lines[lines.index("") + 1 : -2]]
    assert set(told) == {"ok"}
    assert "ok    log            6 facts, " in done.out
    assert snapshot(tmp_path) == before


def test_a_log_that_is_not_there_yet_is_well_and_stays_away(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "--json")
    assert done.code == 0
    assert "is not there yet; it will be made" in checks(done)["folder"]["detail"]
    assert checks(done)["log"] == {"name": "log", "status": "ok", "detail": "nothing has been recorded yet"}
    assert list(tmp_path.iterdir()) == []


def test_json_has_exactly_the_documented_members(run: Run, hand_made: Make, monkeypatch: Any) -> None:
    warning = Check(name="reserve", ok=False, severity="WARN", detail="not there", remedy="wait")
    hand_made(scan=report_of(), preflight=(warning,))
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_RETENTION", "events=7d")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "till")
    done = run("doctor", "--log", "redis://me:secret@host/0", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    (told,) = done.objects
    assert set(told) == {"log", "ok", "checks", "settings"}
    assert (told["log"], told["ok"]) == ("redis://***@host/0", True)
    assert [check["name"] for check in told["checks"]] == [
        "settings",
        "software",
        "runtimes",
        "opentelemetry",
        "reserve",
        "log",
        "integrity",
        "start-up",
        "retention",
    ]
    assert told["checks"][4] == {"name": "reserve", "status": "warn", "detail": "not there", "remedy": "wait"}
    assert told["settings"] == [
        {"name": "LOG", "value": "redis://***@host/0", "from": "--log"},
        {"name": "SYSTEM", "value": "till", "from": "default"},
        {"name": "STARTUP", "value": "scan", "from": "default"},
        {"name": "RETENTION", "value": "events=7d", "from": "environment"},
        {"name": "FSYNC", "value": "interval", "from": "default"},
        {"name": "WRITE", "value": "(by the log)", "from": "default"},
        {"name": "SPILL", "value": "off", "from": "default"},
        {"name": "MESSAGES", "value": "all", "from": "default"},
        {"name": "PAYLOAD", "value": "redacted", "from": "default"},
        {"name": "FORWARD", "value": "live", "from": "default"},
        {"name": "FORWARD_MESSAGES", "value": "false", "from": "default"},
        {"name": "FORWARD_PAYLOAD", "value": "false", "from": "default"},
        {"name": "SPANS", "value": "sampled", "from": "default"},
        {"name": "GROUP", "value": "", "from": "default"},
        {"name": "EXIT_TIMEOUT", "value": "2s", "from": "default"},
        {"name": "METRICS_SOCKET", "value": "false", "from": "default"},
        {"name": "AUDIT_INTERVAL", "value": "60s", "from": "default"},
        {"name": "SCAN_INTERVAL", "value": "off", "from": "default"},
    ]


@pytest.mark.parametrize(
    ("found", "code", "strict", "last"),
    [
        ([], 0, 0, "Ready to record."),
        (["WARN"], 0, 1, "Ready to record with 1 warning."),
        (["ERROR"], 1, 1, "Not ready: 1 failure."),
        (["ERROR", "WARN", "WARN"], 1, 1, "Not ready: 1 failure, 2 warnings."),
    ],
)
def test_the_exit_code(
    found: list[str], code: int, strict: int, last: str, run: Run, hand_made: Make
) -> None:
    made = tuple(Check(name="it", ok=False, severity=severity, detail="d") for severity in found)
    hand_made(scan=report_of(), preflight=made)
    done = run("doctor")
    assert (done.code, done.out.splitlines()[-1]) == (code, last)
    assert run("doctor", "--strict").code == strict
    assert run("doctor", "--strict", "--json").objects[0]["ok"] is (strict == 0)


# --- settings ----------------------------------------------------------------------------------------


def test_every_wrong_setting_is_told_and_the_rest_is_looked_at(
    a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FSYNC": "maybe", "RETENTOIN": "1", "WRITE": "queued", "LOG": a_day}.items():
        monkeypatch.setenv(f"OTEL_PYTHON_PAPYRA_{name}", value)
    done = run("doctor", "--json")
    assert done.code == 1
    wrong = [check["detail"] for check in done.objects[0]["checks"] if check["status"] == "FAIL"]
    assert wrong[0] == "OTEL_PYTHON_PAPYRA_FSYNC='maybe' is not one of never, interval, always"
    assert "did you mean OTEL_PYTHON_PAPYRA_RETENTION?" in wrong[1]
    assert len(wrong) == 2
    assert {row["name"]: row["from"] for row in done.objects[0]["settings"]}["WRITE"] == "environment"
    assert checks(done)["log"]["detail"].startswith("6 facts")


def test_a_wrong_log_is_a_failed_check_in_the_environment_and_wrong_usage_as_an_option(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "nonsense://me:secret@host/0"
    given = run("doctor", "--log", url)
    assert (given.code, given.out, given.err.count("\n")) == (2, "", 1)
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_LOG", url)
    found = run("doctor", "--json")
    assert (found.code, found.err) == (1, "")
    assert checks(found)["log"]["remedy"] == "correct OTEL_PYTHON_PAPYRA_LOG"
    assert "secret" not in given.err + found.out + run("doctor").out


def test_a_log_in_memory_is_a_warning(run: Run) -> None:
    done = run("doctor", "--log", "memory:", "--json")
    assert done.code == 0
    assert checks(done)["durability"]["status"] == "warn"
    assert "log" not in checks(done)


# --- runtimes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "status", "said"),
    [
        ({"papyra": "0.3.0", "pykka": "4.5.0"}, "ok", "papyra 0.3.0, pykka 4.5.0"),
        ({"pykka": "4.0rc1", "dramatiq": "1.17.0"}, "ok", "pykka 4.0rc1, dramatiq 1.17.0"),
        ({}, "warn", "none of papyra, pykka, dramatiq, ray is installed"),
    ],
)
def test_runtimes_that_are_found(
    installed: dict[str, str], status: str, said: str, run: Run, hand_made: Make, monkeypatch: Any
) -> None:
    hand_made(scan=report_of())
    monkeypatch.setattr(doctor, "_version", installed.get)
    runtimes = checks(run("doctor", "--json"))["runtimes"]
    assert (runtimes["status"], runtimes["detail"]) == (status, said)


def test_a_runtime_that_is_too_old_and_no_sdk(run: Run, hand_made: Make, monkeypatch: Any) -> None:
    hand_made(scan=report_of())
    monkeypatch.setattr(doctor, "_version", {"papyra": "0.1.9", "pykka": "10.0"}.get)
    told = run("doctor", "--json").objects[0]["checks"]
    assert [check["detail"] for check in told if check["status"] == "warn"] == [
        "papyra 0.1.9 is too old to be recorded",
        "no SDK: facts are stored, and go nowhere else",
    ]


# --- what a start would find -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "types", "status", "said"),
    [
        ("ignore", ["gap"], "ok", "startup=ignore: a start looks at nothing"),
        ("scan", ["gap"], "ok", "startup=scan: a start looks, tells what it finds, and goes on"),
        ("recover", ["gap"], "ok", "startup=recover: a start recovers 1 anomaly, and goes on"),
        ("recover", [], "ok", "startup=recover: a start finds nothing to recover"),
        ("fail", ["gap"], "FAIL", "startup=fail: the application would not start"),
        ("fail", ["torn_tail"], "ok", "startup=fail: a start goes on, as nothing is damaged"),
    ],
)
def test_what_the_policy_would_do_now(
    policy: str, types: list[str], status: str, said: str, run: Run, hand_made: Make, monkeypatch: Any
) -> None:
    log = hand_made(scan=report_of(*types))
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_STARTUP", policy)
    done = run("doctor", "--json")
    assert log.asked == [("scan", {"incremental": True, "seconds_max": SCAN_SECONDS_MAX})]
    assert checks(done)["start-up"]["status"] == status
    assert checks(done)["start-up"]["detail"].startswith(said)
    assert checks(done)["integrity"]["status"] == ("warn" if types else "ok")
    assert done.code == (1 if status == "FAIL" else 0)


def test_damage_is_summed_up_with_the_command_that_shows_it(damaged: str, run: Run) -> None:
    done = run("doctor", "--log", damaged, "--json")
    assert done.code == 0
    integrity = checks(done)["integrity"]
    assert integrity["status"] == "warn"
    assert "damage or loss: crc_mismatch 1" in integrity["detail"]
    assert integrity["remedy"].startswith(f"papyra-otel scan --log {damaged}")


def test_what_was_left_unread_is_said(run: Run, hand_made: Make) -> None:
    hand_made(scan=report_of(places_unread=3))
    detail = checks(run("doctor", "--json"))["integrity"]["detail"]
    assert detail == "healthy; 3 places left unread for lack of time"


@pytest.mark.parametrize(
    ("error", "status"),
    [(NotSupported("the hand log cannot scan"), "ok"), (LogUnavailable("gone"), "warn")],
)
def test_a_scan_that_is_not_possible(
    error: Exception, status: str, run: Run, hand_made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_made(scan=error)
    done = run("doctor", "--json")
    assert (done.code, checks(done)["integrity"]["status"]) == (0, status)
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_STARTUP", "fail")
    assert run("doctor").code == (0 if status == "ok" else 1)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (LogUnavailable("no answer", error_type="ETIMEDOUT"), 1, "FAIL"),
        (LogUnavailable("no folder", error_type="ENOENT"), 0, "ok"),
        (LogTooNew("shop/events", 2), 0, "warn"),
    ],
)
def test_a_log_that_cannot_be_read(
    error: Exception, code: int, status: str, run: Run, hand_made: Make, monkeypatch: Any
) -> None:
    def stats(_: HandMadeLog) -> None:
        raise error

    hand_made(scan=report_of())
    monkeypatch.setattr(HandMadeLog, "stats", stats)
    done = run("doctor", "--json")
    assert (done.code, checks(done)["log"]["status"]) == (code, status)


def test_nothing_is_read_of_a_log_that_cannot_be_used(run: Run, hand_made: Make) -> None:
    log = hand_made(preflight=(Check(name="folder", ok=False, detail="d"),))
    assert run("doctor").code == 1
    assert log.asked == []


# --- retention ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retention", "status", "said"),
    [
        ("", "ok", "none: facts stay for ever, "),
        ("events=20", "ok", "within twice the limits"),
        ("events=7d", "ok", "within twice the limits"),
        ("events=10", "warn", "there are 30 events, the limit is 10"),
        ("events=1kB", "warn", "the limit is 1000 B"),
    ],
)
def test_much_more_stored_than_shown_is_a_warning(
    retention: str, status: str, said: str, written: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = written(*(fact(n) for n in range(30)))
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_RETENTION", retention)
    found = checks(run("doctor", "--log", url, "--json"))["retention"]
    assert found["status"] == status
    assert said in found["detail"]
    if status == "warn":
        assert found["remedy"] == f"papyra-otel compact --log {url} removes the rest"


# --- as a command, for people ------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_it_fits_the_terminal(
    columns: int, damaged: str, on_terminal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    done = on_terminal("doctor", "--log", damaged, columns=columns)
    plain = [line for line in done.out.splitlines() if "/" not in line]
    assert max(map(width, plain)) <= columns


def test_into_a_pipe_each_check_is_one_line_with_its_remedy(damaged: str, run: Run) -> None:
    (line,) = [line for line in run("doctor", "--log", damaged).out.splitlines() if line.startswith("warn")]
    assert line.split()[:2] == ["warn", "integrity"]
    assert f" → papyra-otel scan --log {damaged}" in line


def test_in_front_of_an_application(a_day: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    for url, status, said in ((a_day, 0, "started\n"), ((tmp_path / "a-file").as_uri(), 1, "")):
        line = f"{sys.executable} -m papyra_otel doctor --log {url} > told && exec echo started"
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (status, said, "")


def test_a_folder_without_permission_fails(unprivileged: list[str], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    argv = [*unprivileged, sys.executable, "-m", "papyra_otel", "doctor", "--log", locked.as_uri()]
    plain = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(argv, env=plain, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  permissions    this user" in done.stdout
    assert "→ give this user the folder" in done.stdout


def test_a_check_is_told_by_how_bad_it_is() -> None:
    check = Check(name="n", ok=True, detail="d")
    assert check.status == "ok"
    assert replace(check, ok=False).status == "FAIL"
    assert replace(check, ok=False, severity="WARN").status == "warn"


# --- the spill ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "code", "status", "said"),
    [
        ({}, 0, "ok", "from the log to localhost:4317 (OTLP over gRPC)"),
        ({"PROTOCOL": "http/json"}, 1, "FAIL", "OTEL_EXPORTER_OTLP_PROTOCOL='http/json'"),
        ({"CERTIFICATE": "/no/such"}, 1, "FAIL", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ],
)
def test_where_an_outbox_delivers_to_is_looked_at(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables, code, status, said
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_FORWARD", "outbox")
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    done = run("doctor", "--json", "--log", f"file:{tmp_path}/facts")
    assert done.code == code
    assert checks(done)["delivery"]["status"] == status
    assert said in checks(done)["delivery"]["detail"]


def test_a_spill_is_not_for_a_log_on_this_machine(
    a_day: str, run: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_SPILL", f"{tmp_path}/spill")
    assert checks(run("doctor", "--json", "--log", a_day))["spill"]["detail"].startswith("not used")


@pytest.mark.parametrize(
    ("folder", "status", "detail"),
    [("", "ok", "nothing waits in"), ("spill", "ok", "nothing waits in"), ("a/b", "warn", "memory only")],
)
def test_a_spill_is_looked_at(
    run: Run, tmp_path: Path, monkeypatch: Any, folder: str, status: str, detail: str
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_SPILL", f"{tmp_path}/{folder}")
    found = checks(run("doctor", "--json", "--log", "redis://127.0.0.1:1"))
    assert found["spill"]["status"] == status
    assert detail in found["spill"]["detail"]
