from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cli.support import Done, fact
from papyra_otel.cli import app
from papyra_otel.cli.app import VERBS
from papyra_otel.log.codec import encode

Run = Callable[..., Done]
NAMES = [verb.name for verb in VERBS]


def command(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # the environment is named: readline sets COLUMNS behind Python's back, where a child would inherit it
    return subprocess.run(
        [sys.executable, "-m", "papyra_otel", *argv],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# --- help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_has_help(name: str, run: Run) -> None:
    done = run(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: papyra-otel {name} ")
    assert "--json" in done.out


def test_help_names_every_verb(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    for verb in VERBS:
        assert f"\n    {verb.name}" in done.out


def test_verbs_are_listed_in_order() -> None:
    assert sorted(NAMES) == NAMES


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_every_verb_is_in_the_readme(verb: Any) -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    assert f"papyra-otel {verb.name}" in readme


def test_no_verb_is_wrong_usage_and_shows_help(run: Run) -> None:
    done = run()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: papyra-otel ")


def test_version(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"papyra-otel {version('papyra-otel')}\n")


# --- wrong input ------------------------------------------------------------------------------------


def file_in_place_of_a_folder(tmp_path: Path) -> str:
    (tmp_path / "a-file").write_text("hello")
    return (tmp_path / "a-file").as_uri()


def log_of_a_newer_version(tmp_path: Path) -> str:
    folder = tmp_path / "newer" / "shop" / "events"
    folder.mkdir(parents=True)
    line = encode(fact().identified("9f2c41d07be3a815", 0))
    body = line.rpartition(b',"crc":')[0].replace(b'{"v":1,', b'{"v":2,')
    line = body + b',"crc":"%08x"}\n' % zlib.crc32(body + b"}")
    (folder / "20261122T200245Z-9f2c41d07be3a815-000001.ndjson").write_bytes(line)
    return (tmp_path / "newer").as_uri()


READING = ["facts", "stats"]
LOOKING_AFTER = ["scan", "recover", "compact --retention 1"]


@pytest.mark.parametrize("verb", [*READING, *LOOKING_AFTER])
@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("papyra-facts", "has no scheme; for a folder write file:papyra-facts"),
        ("FILE:x", "has no scheme"),
        ("file:", "names no folder"),
        ("file://host/x", "names a host"),
        ("file:x?y=1", "has a query"),
        ("nonsense://user:secret@host/x", "no backend for 'nonsense'; known are file, memory"),
        ("memory:", "lives inside the process that writes it"),
        ("file:missing", "No such file or directory"),
        (file_in_place_of_a_folder, "a file is where a folder should be"),
    ],
)
def test_a_log_that_cannot_be_read_is_told_in_one_line(
    verb: str, log: str | Callable[[Path], str], said: str, run: Run, tmp_path: Path
) -> None:
    done = run(*verb.split(), "--log", log if isinstance(log, str) else log(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("papyra-otel: error: ")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert "secret" not in done.err
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("verb", READING)
def test_a_log_of_a_newer_version_cannot_be_read(verb: str, run: Run, tmp_path: Path) -> None:
    done = run(verb, "--log", log_of_a_newer_version(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert "Upgrade papyra-otel" in done.err


@pytest.mark.parametrize("verb", [*READING, *LOOKING_AFTER])
def test_a_folder_without_permission_is_told_in_one_line(
    verb: str, unprivileged: list[str], tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    command = [*unprivileged, sys.executable, "-m", "papyra_otel", *verb.split(), "--log", locked.as_uri()]
    plain = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(command, env=plain, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"papyra-otel: error: log folder {locked}: Permission denied")
    assert "give this user the folder" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("facts --kind murmur", "'murmur' is not a kind of fact; use event, audit, dead_letter"),
        ("facts --since yesterday", "'yesterday' is not a time; write 2026-11-22"),
        ("facts --since 2026-13-01", "'2026-13-01' is not a time: month must be in 1..12"),
        ("facts --until 15", "'15' is not a time"),
        ("facts --since 1h --until 2h", "--since must be before --until"),
        ("facts --limit -1", "-1"),
        ("facts --limit=-1", "'-1' is not a whole number"),
        ("facts --limit ten", "'ten' is not a whole number"),
        ("facts --last 1 --limit 1", "not allowed with argument"),
        ("facts --after nonsense", "is not a cursor of this log"),
        ("facts --after b1.gA", "read in the other direction"),
        ("facts --after f1.gA --last 3", "--last and --after exclude one another"),
        ("facts --follow --limit 3", "--follow and --limit exclude one another"),
        ("facts --follow --limit 0", "--follow and --limit exclude one another"),
        ("facts --follow --newest-first", "--follow and --newest-first exclude one another"),
        ("facts --follow --until 1h", "--follow and --until exclude one another"),
        ("facts --retention events=sometimes", "'sometimes' is not a limit"),
        ("facts --retention", "expected one argument"),
        ("facts --lim 3", "unrecognized arguments: --lim 3"),
        ("facts extra", "unrecognized arguments: extra"),
        ("scan --seconds 3", "unrecognized arguments: --seconds 3"),
        ("recover --mode mend", "invalid choice: 'mend'"),
        ("compact --retention events=sometimes", "'sometimes' is not a limit"),
        ("compact --retention=", "--retention '' has no limit"),
        ("compact", "no retention is set"),
        ("doctor --system", "expected one argument"),
        ("demo --log file:x", "unrecognized arguments: --log file:x"),
        ("murmur", "invalid choice: 'murmur'"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(argv: str, said: str, a_day: str, run: Run) -> None:
    verb, *rest = argv.split()
    done = run(verb, *([f"--log={a_day}"] if verb not in {"demo", "murmur"} else []), *rest)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("papyra-otel: error: ")
    assert said in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("verb", [*READING, *LOOKING_AFTER])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_PYTHON_PAPYRA_RETENTOIN", "1", "did you mean OTEL_PYTHON_PAPYRA_RETENTION?"),
        ("OTEL_PYTHON_PAPYRA_RETENTION", "often", "'often' is not a limit"),
        ("OTEL_PYTHON_PAPYRA_FSYNC", "maybe", "not one of never, interval, always"),
        ("OTEL_PYTHON_PAPYRA_LOG", "nonsense", "has no scheme"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    verb: str, name: str, value: str, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    done = run(*verb.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("papyra-otel: error: ")
    assert said in done.err
    assert done.err.count("\n") == 1


# --- as a command -----------------------------------------------------------------------------------


def test_exit_codes_as_a_command(a_day: str) -> None:
    good = command("facts", "--log", a_day)
    assert (good.returncode, good.stderr, good.stdout.count("\n")) == (0, "", 7)
    bad = command("stats", "--log", "file:missing")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("papyra-otel: error: ")
    assert bad.stderr.count("\n") == 1


def test_the_script_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("papyra-otel")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == command("--version").stdout


@pytest.mark.parametrize("verb", ["scan", "recover --dry-run", "compact --retention 1 --dry-run", "doctor"])
def test_a_reader_that_is_not_there_ends_looking_after_quietly(verb: str, a_day: str) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "papyra_otel", *verb.split(), "--log", a_day]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_it_quietly(options: list[str], written: Any) -> None:
    url = written(*(fact(n, attributes={"text": "x" * 200}) for n in range(3000)))
    argv = [sys.executable, "-m", "papyra_otel", "facts", "--log", url, *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(50) == 141


def test_a_reader_that_never_was_ends_it_quietly(a_day: str) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "papyra_otel", "stats", "--log", a_day]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_that_is_not_utf_8_is_served_too(written: Any) -> None:
    url = written(fact(attributes={"papyra.actor.name": "Zoë 東京"}))
    done = command("facts", "--log", url, PYTHONIOENCODING="ascii", PYTHONUTF8="0", COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"Zo\xeb \u6771\u4eac" in done.stdout


def test_ctrl_c_is_no_error(a_day: str, run: Run) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    done = run("facts", "--log", a_day, "--follow", wait=interrupted)
    assert (done.code, done.err) == (130, "")


def test_a_bug_keeps_its_traceback_and_has_a_code_of_its_own(
    a_day: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock() -> int:
        raise ZeroDivisionError("a bug")

    done = run("facts", "--log", a_day, clock=clock)
    assert done.code == 70
    assert "Traceback" in done.err
    assert "ZeroDivisionError: a bug" in done.err
    assert done.err.endswith(
        "papyra-otel: error: this is a bug in papyra-otel; please report it with the lines above\n"
    )


def test_without_its_distribution_it_still_has_a_version(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_: str) -> str:
        raise app.PackageNotFoundError

    monkeypatch.setattr(app, "version", nowhere)
    assert run("--version").out == "papyra-otel (not installed)\n"
