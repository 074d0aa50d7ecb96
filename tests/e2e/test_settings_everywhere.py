"""A setting means the same wherever it is given: variable, flag, configuration file, ``enable()``, instrumentor."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

import papyra_otel
from e2e.harness import INSTRUMENT, NO_EXPORT, run, stored
from papyra_otel.auto import PykkaInstrumentor, RecordingConfiguration
from papyra_otel.config import Settings

SHOW = """
import papyra_otel
recording = papyra_otel.current()
print(recording and recording.settings)
"""
OTHER_THAN_DEFAULT: Mapping[str, object] = {  # every setting; text, number or truth value as YAML has them
    "log": "file:facts",
    "system": "mine",
    "startup": "ignore",
    "retention": "events=7d,1GiB;dead_letters=90d",
    "fsync": "always",
    "write": "queued",
    "spill": "off",
    "messages": "sampled:3",
    "payload": "none",
    "forward": "off",
    "forward_messages": True,
    "forward_payload": True,
    "spans": "always",
    "group": "shop.*=shop",
    "exit_timeout": 1.5,
    "metrics_socket": True,
    "audit_interval": 30,
    "scan_interval": "6h",
}
NEEDS_FILES = pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None, reason="opentelemetry-configuration is not installed"
)
WRONG = "not recording: OTEL_PYTHON_PAPYRA_FSYNC='sometimes' is not one of never, interval, always"


@pytest.fixture(autouse=True)
def no_recording() -> Iterator[None]:
    yield
    PykkaInstrumentor().uninstrument()
    papyra_otel.disable()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A program that shows its settings."""
    path = tmp_path / "app.py"
    path.write_text(SHOW, "utf-8")
    return path


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def expected() -> str:
    return repr(Settings.load(OTHER_THAN_DEFAULT, {}))


def config_file(folder: Path, settings: Mapping[str, object], more: str = "") -> dict[str, str]:
    """Write a configuration file, and return the environment that names it."""
    lines = [
        f"      {name}: {value if isinstance(value, float) else repr(value)}"
        for name, value in settings.items()
    ]
    text = "\n".join(
        ["file_format: '1.0'", "instrumentation/development:", "  python:", "    pykka:", *lines, more, ""]
    )
    path = folder / "otel.yaml"
    path.write_text(text.replace(": True", ": true"), "utf-8")
    return {"OTEL_CONFIG_FILE": str(path)}


def test_what_is_tried_here_is_every_setting_and_differs_from_its_default() -> None:
    assert OTHER_THAN_DEFAULT.keys() == {field.name for field in fields(RecordingConfiguration)}
    chosen, default = Settings.load(OTHER_THAN_DEFAULT, {}), Settings()
    same = {
        field.name
        for field in fields(Settings)
        if getattr(chosen, field.name) == getattr(default, field.name)
    }
    assert same == {"spill", "service_name"}  # a spill needs a log behind a network


@pytest.mark.slow
def test_variables(app: Path, tmp_path: Path) -> None:
    env = {f"OTEL_PYTHON_PAPYRA_{name.upper()}": as_text(value) for name, value in OTHER_THAN_DEFAULT.items()}
    done = run([INSTRUMENT, sys.executable, str(app)], cwd=tmp_path, env={**NO_EXPORT, **env})
    assert (done.stdout, done.stderr) == (f"{expected()}\n", "")


@pytest.mark.slow
def test_flags_which_go_before_variables(app: Path, tmp_path: Path) -> None:
    flags = [f"--papyra_{name}={as_text(value)}" for name, value in OTHER_THAN_DEFAULT.items()]
    env = {**NO_EXPORT, "OTEL_PYTHON_PAPYRA_SYSTEM": "another", "OTEL_PYTHON_PAPYRA_FSYNC": "never"}
    done = run([INSTRUMENT, *flags, sys.executable, str(app)], cwd=tmp_path, env=env)
    assert (done.stdout, done.stderr) == (f"{expected()}\n", "")


@pytest.mark.slow
@NEEDS_FILES
def test_a_configuration_file_which_goes_before_variables(app: Path, tmp_path: Path) -> None:
    env = {**config_file(tmp_path, OTHER_THAN_DEFAULT), "OTEL_PYTHON_PAPYRA_SYSTEM": "another"}
    done = run([INSTRUMENT, sys.executable, str(app)], cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == (f"{expected()}\n", 0), done.stderr


def test_enable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_SYSTEM", "another")
    recording = papyra_otel.enable(**OTHER_THAN_DEFAULT, runtimes=())
    assert repr(recording.settings) == expected()


@pytest.mark.parametrize("as_object", [False, True])
def test_an_instrumentor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_object: bool) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_SYSTEM", "another")
    given = (
        {"configuration": RecordingConfiguration(**OTHER_THAN_DEFAULT)} if as_object else OTHER_THAN_DEFAULT
    )
    PykkaInstrumentor().instrument(**given)
    recording = papyra_otel.current()
    assert recording is not None
    assert repr(recording.settings) == expected()


# --- what is wrong is said, once, and the application runs ------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", ["variable", "flag", pytest.param("file", marks=NEEDS_FILES)])
def test_a_wrong_value_is_said_once_and_the_application_runs(way: str, app: Path, tmp_path: Path) -> None:
    flags = ["--papyra_fsync=sometimes"] if way == "flag" else []
    env = config_file(tmp_path, {"fsync": "sometimes"}) if way == "file" else dict(NO_EXPORT)
    if way == "variable":
        env["OTEL_PYTHON_PAPYRA_FSYNC"] = "sometimes"
    done = run([INSTRUMENT, *flags, sys.executable, str(app)], cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == ("None\n", 0)
    assert done.stderr.count("papyra-otel: ") == 1
    assert WRONG in done.stderr
    assert not (tmp_path / "papyra-facts").exists()


@pytest.mark.slow
@NEEDS_FILES
def test_a_misspelt_key_in_a_configuration_file_does_not_go_unnoticed(app: Path, tmp_path: Path) -> None:
    env = config_file(tmp_path, {"retentoin": "events=7d"})
    done = run([INSTRUMENT, sys.executable, str(app)], cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert "retentoin" in done.stderr


def test_no_other_log_takes_the_place_of_one_that_was_configured_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The instrumentors of runtimes that a configuration file does not name come after those that it names."""
    from papyra_otel.auto import PapyraInstrumentor

    monkeypatch.chdir(tmp_path)
    PykkaInstrumentor().instrument(configuration=RecordingConfiguration(fsync="sometimes"))
    PapyraInstrumentor().instrument()
    recording = papyra_otel.current()
    assert recording is not None
    assert not recording.active
    assert not (tmp_path / "papyra-facts").exists()
    assert capsys.readouterr().err.count("papyra-otel: ") == 1
    PapyraInstrumentor().uninstrument()
    PykkaInstrumentor().uninstrument()
    PykkaInstrumentor().instrument(log=f"file:{tmp_path}/facts")
    assert papyra_otel.current().active


# --- somebody else's events, by configuration file ---------------------------------------------------------

EVENT = """
from opentelemetry._logs import LogRecord, get_logger
get_logger("shop").emit(LogRecord(event_name="shop.order.paid", attributes={"cents": 700}))
"""


@pytest.mark.slow
@NEEDS_FILES
def test_the_exporter_is_known_to_configuration_files(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(EVENT, "utf-8")
    exporter = "logger_provider:\n  processors:\n    - batch:\n        exporter:\n          papyra: {}\n"
    env = config_file(tmp_path, {"log": f"file:{tmp_path}/chosen"}, exporter)
    done = run([INSTRUMENT, sys.executable, str(tmp_path / "app.py")], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert [fact.name for fact in stored(tmp_path / "chosen")] == ["shop.order.paid"]
