"""What a start does about old damage, in real processes on real files; and how the log is looked after from there."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import papyra_otel
from e2e.harness import INSTRUMENT, NO_EXPORT, Receiver, command, eventually, run, run_code, segments, stored
from papyra_otel import Actor, open_log
from papyra_otel import semconv as s
from papyra_otel.errors import LogBusy, LogDamaged
from papyra_otel.reports import ANOMALY_SEVERITIES

ACTOR = Actor(system="s", type="T", address="s/1")
APP = """
import pykka
class Echo(pykka.ThreadingActor):
    def on_receive(self, message):
        return message
echo = Echo.start()
print(echo.ask("hello"), echo.stop())
"""
BEGIN = """
import os, sys, papyra_otel
from papyra_otel import Actor
actor = Actor(system="s", type="T", address="s/1")
def enable(**more):
    return papyra_otel.enable(f"file:{sys.argv[1]}", runtimes=(), **more)
"""


@pytest.fixture(autouse=True)
def no_recording() -> Iterator[None]:
    yield
    papyra_otel.disable()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a log with ten facts, orderly closed."""
    recording = papyra_otel.enable(f"file:{tmp_path}/facts", runtimes=())
    for _ in range(10):
        recording.recorder.started(ACTOR)
    papyra_otel.disable()
    return tmp_path / "facts"


@pytest.fixture
def damaged(root: Path) -> Path:
    """Return such a log with one flipped bit in the sixth fact."""
    ((path, _),) = segments(root).items()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[6] = lines[6].replace(b'"seq":5', b'"seq":4')
    path.write_bytes(b"".join(lines))
    return root


def names(root: Path) -> Counter[str]:
    return Counter(fact.name for fact in stored(root))


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*.ndjson")}


def instrumented(folder: Path, root: Path, mode: str, **env: str):
    (folder / "app.py").write_text(APP, "utf-8")
    flags = (f"--papyra_log=file:{root}", f"--papyra_startup={mode}")
    arguments = command(folder / "app.py", instrument=True, flags=flags)
    return run(arguments, cwd=folder, env={**NO_EXPORT, **env})


# --- fail ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fail_ends_the_process_before_its_program_begins(damaged: Path, tmp_path: Path) -> None:
    before = contents(damaged)
    done = instrumented(tmp_path, damaged, "fail")
    assert (done.stdout, done.returncode) == ("", 1)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"papyra-otel: not starting: file:{damaged} has ")
    assert "1 crc_mismatch" in line
    assert f"papyra-otel scan --log file:{damaged};" in line
    assert line.endswith(f"papyra-otel recover --log file:{damaged}")  # nothing glued to what will be copied
    assert contents(damaged) == before


@pytest.mark.slow
def test_fail_lets_a_healthy_log_and_a_new_one_through(root: Path, tmp_path: Path) -> None:
    for log in (root, tmp_path / "new"):
        done = instrumented(tmp_path, log, "fail")
        assert (done.stdout, done.stderr, done.returncode) == ("hello True\n", "", 0)


@pytest.mark.slow
def test_a_killed_process_is_no_reason_to_fail(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    run_code(BEGIN + "enable().recorder.started(actor)\nos._exit(0)\n", root, cwd=tmp_path)
    done = instrumented(tmp_path, root, "fail")
    assert (done.stdout, done.returncode) == ("hello True\n", 0)
    (line,) = done.stderr.splitlines()
    assert "has 1 anomaly (1 unclean_shutdown)" in line


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None, reason="opentelemetry-configuration is not installed"
)
def test_fail_in_a_configuration_file_ends_the_process_too(damaged: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "otel.yaml").write_text(
        "file_format: '1.0'\ninstrumentation/development:\n  python:\n    pykka:\n"
        f"      log: file:{damaged}\n      startup: fail\n",
        "utf-8",
    )
    env = {"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml")}
    done = run([INSTRUMENT, sys.executable, str(tmp_path / "app.py")], cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == ("", 1)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("OTEL_CONFIG_FILE is set")]
    assert line.startswith("papyra-otel: not starting: ")


@pytest.mark.slow
def test_an_instrumentor_in_a_program_ends_it_in_order(damaged: Path, tmp_path: Path) -> None:
    code = (
        "import atexit, sys\nfrom papyra_otel.auto import PykkaInstrumentor\n"
        "atexit.register(print, 'in order')\n"
        "PykkaInstrumentor().instrument(log=f'file:{sys.argv[1]}', startup='fail')\nprint('not here')\n"
    )
    done = run_code(code, damaged, cwd=tmp_path, code_of=1)
    assert done.stdout == "in order\n"
    assert len(done.stderr.splitlines()) == 1


def test_fail_is_the_one_thing_that_enable_raises(damaged: Path) -> None:
    import pykka

    for _ in range(2):
        with pytest.raises(LogDamaged, match="1 crc_mismatch"):
            papyra_otel.enable(f"file:{damaged}", startup="fail")
    recording = papyra_otel.plugin.current()
    assert recording is not None
    assert not recording.active
    assert isinstance(recording.error, LogDamaged)
    assert not hasattr(pykka.ActorRef.tell, "__wrapped__")
    assert papyra_otel.enable(f"file:{damaged}", startup="ignore", runtimes=()).active


@pytest.mark.parametrize(
    ("url", "said"), [("file:not-there/facts", "create its parent folder"), ("nonsense", "has no scheme")]
)
def test_fail_refuses_what_cannot_be_recorded_to(
    url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LogDamaged, match=said):
        papyra_otel.enable(url, startup="fail")


# --- scan and recover -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scan_is_the_default_and_tells_before_the_first_actor(damaged: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    env = {**NO_EXPORT, "OTEL_PYTHON_PAPYRA_LOG": f"file:{damaged}"}
    done = run(command(tmp_path / "app.py", instrument=True), cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == ("hello True\n", 0)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"papyra-otel: file:{damaged} has ")
    assert f"papyra-otel recover --log file:{damaged}" in line
    told = [fact for fact in stored(damaged) if fact.name in {s.LOG_SCANNED, s.LOG_ANOMALY}]
    by_type = Counter(f.attributes[s.ANOMALY_TYPE] for f in told[:-1])
    assert by_type["crc_mismatch"] == 1
    assert told[-1].attributes[s.SCAN_COUNTS] == [f"{name}={n}" for name, n in sorted(by_type.items())]
    assert told[-1].attributes[s.SCAN_RECORDS] == 9
    actor = [fact for fact in stored(damaged, name=s.ACTOR_STARTED) if fact.system == "pykka"]
    assert told[-1].time_unix_nano < actor[0].time_unix_nano


@pytest.mark.slow
def test_recover_leaves_a_healthy_log_before_the_first_actor(damaged: Path, tmp_path: Path) -> None:
    done = instrumented(tmp_path, damaged, "recover")
    assert (done.stdout, done.returncode) == ("hello True\n", 0)
    (line,) = done.stderr.splitlines()
    assert line.endswith(": none left.")
    assert "s/quarantine/" in line
    with open_log(f"file:{damaged}") as log:
        assert log.scan().healthy
    assert names(damaged)[s.ACTOR_STARTED] == 9 + 1
    assert names(damaged)[s.LOG_RECOVERED] == 1
    again = instrumented(tmp_path, damaged, "recover")
    assert (again.stderr, names(damaged)[s.LOG_RECOVERED]) == ("", 1)


def test_ignore_looks_at_nothing(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    papyra_otel.enable(f"file:{damaged}", startup="ignore", runtimes=())
    papyra_otel.disable()
    assert (names(damaged)[s.LOG_SCANNED], capsys.readouterr().err) == (0, "")


def test_the_second_start_reads_only_what_is_new(root: Path) -> None:
    remembered = []
    for _ in range(3):
        papyra_otel.enable(f"file:{root}", runtimes=())
        papyra_otel.disable()
        remembered.append(stored(root, name=s.LOG_SCANNED)[-1].attributes[s.SCAN_PLACES_REMEMBERED])
    assert remembered == [0, 1, 2]


@pytest.mark.slow
def test_a_forked_child_does_not_scan_again(root: Path, tmp_path: Path) -> None:
    code = BEGIN + (
        "import threading\n"
        "recording = enable(scan_interval='1h')\n"
        "if os.fork() == 0:\n"
        "    recording.recorder.started(actor)\n"
        "    names = [t.name for t in threading.enumerate()]\n"
        "    zeros = recording._counters.total('papyra.persistence.scans') == 0\n"
        "    unknown = recording._upkeep.health() is None\n"
        "    os._exit(0 if zeros and unknown and 'papyra-otel-scan' not in names else 1)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    assert run_code(code, root, cwd=tmp_path).stdout == "0\n"
    assert names(root)[s.LOG_SCANNED] == 1


# --- in a running process ----------------------------------------------------------------------------------------


def test_a_running_process_scans_now_and_then_until_it_is_told_to_stop(damaged: Path) -> None:
    papyra_otel.enable(f"file:{damaged}", runtimes=(), scan_interval="1ms")
    eventually(lambda: names(damaged)[s.LOG_SCANNED] >= 3)
    papyra_otel.disable()
    scans, anomalies = names(damaged)[s.LOG_SCANNED], names(damaged)[s.LOG_ANOMALY]
    full = stored(damaged, name=s.LOG_SCANNED)[-1]
    assert full.attributes[s.SCAN_PLACES_REMEMBERED] == 0
    assert full.attributes[s.SCAN_ANOMALIES] == anomalies  # each told once
    assert names(damaged)[s.LOG_SCANNED] == scans


def test_a_recording_compacts_and_recovers_its_log_while_it_records(damaged: Path) -> None:
    recording = papyra_otel.enable(f"file:{damaged}", runtimes=(), retention="events=3")
    recording.recorder.started(ACTOR)
    report = recording.recover()
    assert report.changed
    recording.recorder.started(ACTOR)
    removed = recording.compact().records_removed
    assert removed > 0
    recording.recorder.started(ACTOR)
    assert recording.scan().healthy
    papyra_otel.disable()
    with open_log(f"file:{damaged}") as log:
        assert log.scan().healthy
    assert names(damaged)[s.ACTOR_STARTED] >= 3


def test_without_a_recording_there_is_nothing_to_look_after(capsys: pytest.CaptureFixture[str]) -> None:
    recording = papyra_otel.enable("nonsense", runtimes=())
    capsys.readouterr()
    for verb in (recording.scan, recording.recover, recording.compact):
        with pytest.raises(papyra_otel.LogUnavailable, match=r"nothing is recorded: .*nonsense"):
            verb()


# --- at the collector ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_facts_and_metrics_about_the_log_arrive(damaged: Path, receiver: Receiver, tmp_path: Path) -> None:
    env = {**receiver.environment, "OTEL_LOGS_EXPORTER": "otlp,papyra"}
    done = instrumented(tmp_path, damaged, "recover", **env)
    assert done.returncode == 0, done.stderr
    records = {name: [r for r in receiver.records() if r.name == name] for name in names(damaged)}
    assert {name for name in records if name.startswith("papyra.log.")} == {
        s.LOG_SCANNED,
        s.LOG_ANOMALY,
        s.LOG_RECOVERED,
    }
    for fact in stored(damaged):
        if fact.name.startswith("papyra.log."):
            (record,) = [r for r in records[fact.name] if r.attributes.get(s.LOG_RECORD_UID) == fact.uid]
            assert record.severity_text == fact.severity

    marks = [r for r in receiver.records() if r.name in {s.LOG_OPENED, s.LOG_SEALED}]
    assert {(r.name, r.severity_text) for r in marks} == {(s.LOG_OPENED, "DEBUG"), (s.LOG_SEALED, "DEBUG")}
    sealed = {r.attributes[s.SEGMENT_DIGEST] for r in marks if r.name == s.LOG_SEALED}
    files = b"".join(contents(damaged).values()).decode()
    assert len(sealed) == len({r.attributes[s.FACT_WRITER] for r in marks})
    assert [digest for digest in sealed if digest not in files] == []
    assert s.LOG_OPENED not in names(damaged), "a mark came round and was stored as a fact"

    def value(metric: str, **attributes: str) -> float:
        points = [p for p in receiver.points(metric) if attributes.items() <= p.attributes.items()]
        return sum(point.value for point in points)

    known = {str(point.attributes[s.ANOMALY_TYPE]) for point in receiver.points(s.PERSISTENCE_ANOMALIES)}
    assert known == set(ANOMALY_SEVERITIES)
    assert value(s.PERSISTENCE_ANOMALIES, **{s.ANOMALY_TYPE: "crc_mismatch"}) == 1
    assert value(s.PERSISTENCE_SCANS) == 1
    assert value(s.PERSISTENCE_RECOVERIES, **{s.RECOVERY_MODE: "quarantine"}) == 1
    assert value(s.PERSISTENCE_COMPACTIONS) == 0
    assert value(s.ANOMALY_COUNT) == 0
    assert value(s.SCAN_AGE) > 0
    assert value(s.STORAGE_SIZE) > 0
    assert s.OPERATION_DURATION in receiver.metric_names()


def test_another_process_that_recovers_is_not_waited_for(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from papyra_otel.log.file.filelog import FileLog

    def busy(*_: object, **__: object) -> None:
        raise LogBusy("somebody else does")

    monkeypatch.setattr(FileLog, "recover", busy)
    assert papyra_otel.enable(f"file:{damaged}", startup="recover", runtimes=()).active
    assert "another process is recovering it" in capsys.readouterr().err
