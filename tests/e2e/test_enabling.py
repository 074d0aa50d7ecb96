"""Every way of turning recording on and off, alone and together."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import papyra_otel
from e2e.harness import INSTRUMENT, NO_EXPORT, PROGRAMS, command, run, run_code, segments, stored
from papyra_otel import semconv as s

BOTH = """
import anyio, pykka
from papyra import Actor, ActorSystem

class Echo(pykka.ThreadingActor):
    def on_receive(self, message):
        return message

class Also(Actor):
    async def receive(self, message):
        return message

async def main():
    async with ActorSystem(system_id="p") as system:
        print(await system.spawn(Also).ask("papyra"))

echo = Echo.start()
print(echo.ask("pykka"), echo.stop())
anyio.run(main)
"""
BOTH_SAY = "pykka True\npapyra\n"
WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(autouse=True)
def no_recording() -> Iterator[None]:
    yield
    from papyra_otel.auto import PapyraInstrumentor, PykkaInstrumentor

    for instrumentor in (PapyraInstrumentor(), PykkaInstrumentor()):
        instrumentor.uninstrument()
    papyra_otel.disable()


def one_actor() -> None:
    """Start and stop a pykka actor."""
    import pykka

    class Echo(pykka.ThreadingActor):
        """Echoes nothing."""

    Echo.start().stop()


def starts(root: Path) -> int:
    return len(stored(root, name=s.ACTOR_STARTED))


def systems(root: Path) -> set[str]:
    return {fact.system for fact in stored(root)}


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("opentelemetry_instrumentor", {"papyra", "pykka"}),
        ("opentelemetry_environment_variables", {"papyra_otel"}),
        ("opentelemetry_logs_exporter", {"papyra"}),
        ("papyra_otel.log", {"file", "memory"}),
        ("opentelemetry_distro", set()),
        ("opentelemetry_configurator", set()),
    ],
)
def test_the_entry_points_exist_and_load(group: str, names: set[str]) -> None:
    ours = [point for point in entry_points(group=group) if point.value.startswith("papyra_otel")]
    assert {point.name for point in ours} >= names
    if not names:
        assert ours == []
    assert all(point.load() is not None for point in ours)


def test_importing_papyra_otel_imports_neither_an_sdk_nor_a_runtime(tmp_path: Path) -> None:
    code = (
        "import sys, papyra_otel\npapyra_otel.open_log, papyra_otel.Fact\n"
        "print([m for m in ('opentelemetry.sdk', 'pykka', 'papyra', 'anyio', 'redis', 'rich') if m in sys.modules])"
    )
    assert run_code(code, cwd=tmp_path).stdout == "[]\n"


def test_enabling_without_runtimes_imports_none(tmp_path: Path) -> None:
    code = (
        "import sys, papyra_otel\npapyra_otel.enable('memory:', runtimes=())\n"
        "print([m for m in ('opentelemetry.sdk', 'pykka', 'papyra') if m in sys.modules])"
    )
    assert run_code(code, cwd=tmp_path).stdout == "[]\n"


def test_enabling_twice_is_once(tmp_path: Path) -> None:
    first = papyra_otel.enable(f"file:{tmp_path}/one")
    second = papyra_otel.enable(f"file:{tmp_path}/two")
    assert second is first
    one_actor()
    papyra_otel.disable()
    assert starts(tmp_path / "one") == 1
    assert not (tmp_path / "two").exists()


def test_disabling_restores_and_enabling_again_records_elsewhere(tmp_path: Path) -> None:
    import pykka
    from papyra import ActorSystem

    def methods() -> list[Any]:
        return [
            vars(owner)[name]
            for owner in (pykka.Actor, pykka.ActorRef, pykka.ActorRegistry, ActorSystem)
            for name in vars(owner)
            if callable(getattr(owner, name))
        ]

    before = methods()
    papyra_otel.enable(f"file:{tmp_path}/one")
    assert methods() != before
    one_actor()
    papyra_otel.disable()
    assert methods() == before
    one_actor()
    papyra_otel.disable()
    papyra_otel.enable(f"file:{tmp_path}/two")
    one_actor()
    one_actor()
    papyra_otel.disable()
    assert (starts(tmp_path / "one"), starts(tmp_path / "two")) == (1, 2)
    assert all((segments(tmp_path / "one") | segments(tmp_path / "two")).values())


def test_an_instrumentor_twice_is_silently_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from papyra_otel.auto import PykkaInstrumentor

    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_LOG", f"file:{tmp_path}/facts")
    with caplog.at_level(logging.DEBUG):
        PykkaInstrumentor().instrument()
        PykkaInstrumentor().instrument()
        one_actor()
        PykkaInstrumentor().uninstrument()
        PykkaInstrumentor().uninstrument()
        one_actor()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert starts(tmp_path / "facts") == 1
    assert all(segments(tmp_path / "facts").values())
    assert papyra_otel.plugin.current() is None


def test_an_instrumentor_works_again_after_disable(tmp_path: Path) -> None:
    from papyra_otel.auto import PykkaInstrumentor

    PykkaInstrumentor().instrument(log=f"file:{tmp_path}/one")
    papyra_otel.disable()
    PykkaInstrumentor().instrument(log=f"file:{tmp_path}/two")
    one_actor()
    PykkaInstrumentor().uninstrument()
    assert (starts(tmp_path / "one"), starts(tmp_path / "two")) == (0, 1)


def test_uninstrumenting_one_runtime_goes_on_recording_the_other(tmp_path: Path) -> None:
    from papyra_otel.auto import PapyraInstrumentor, PykkaInstrumentor

    PykkaInstrumentor().instrument(log=f"file:{tmp_path}/facts")
    PapyraInstrumentor().instrument()
    PapyraInstrumentor().uninstrument()
    one_actor()
    recording = papyra_otel.plugin.current()
    assert recording is not None
    assert [capable.runtime for capable in recording.capabilities()] == ["pykka"]
    assert starts(tmp_path / "facts") == 1


def test_an_unknown_runtime_is_told_and_the_others_are_recorded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    papyra_otel.enable(f"file:{tmp_path}/facts", runtimes=("pyka", "pykka"))
    one_actor()
    assert starts(tmp_path / "facts") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line
        == "papyra-otel: there is no adapter for the runtime 'pyka'; known are papyra, pykka, dramatiq, ray."
    )


@pytest.mark.slow
def test_both_runtimes_share_one_recording(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BOTH, "utf-8")
    done = run(command(tmp_path / "app.py", instrument=True), cwd=tmp_path, env=NO_EXPORT)
    assert (done.stdout, done.stderr, done.returncode) == (BOTH_SAY, "", 0)
    root = tmp_path / "papyra-facts"  # the default, in the working directory
    assert Counter((f.system, f.name) for f in stored(root)) == {
        ("pykka", s.ACTOR_STARTED): 1,
        ("pykka", s.MESSAGE_PROCESSED): 1,
        ("pykka", s.ACTOR_STOPPED): 1,
        ("p", s.SYSTEM_STARTED): 1,
        ("p", s.ACTOR_STARTED): 1,
        ("p", s.MESSAGE_PROCESSED): 1,
        ("p", s.ACTOR_STOPPED): 1,
        ("p", s.SYSTEM_STOPPED): 1,
    }
    assert len(segments(root)) == 2
    assert all(segments(root).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disabled", "left"), [("pykka", {"p"}), ("papyra", {"pykka"}), ("papyra,pykka", None)]
)
def test_a_disabled_instrumentation_is_left_alone(
    disabled: str, left: set[str] | None, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(BOTH, "utf-8")
    env = {**NO_EXPORT, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled}
    done = run(command(tmp_path / "app.py", instrument=True), cwd=tmp_path, env=env)
    assert (done.stdout, done.stderr, done.returncode) == (BOTH_SAY, "", 0)
    assert systems(tmp_path / "papyra-facts") == (left or set())


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "program"), [("papyra", "pykka_shop"), ("pykka", "papyra_shop")])
def test_one_runtime_without_the_other_is_recorded(missing: str, program: str, tmp_path: Path) -> None:
    starter = tmp_path / "start.py"
    starter.write_text(
        WITHOUT.format(name=missing)
        + "from opentelemetry.instrumentation.auto_instrumentation import initialize\n"
        + "initialize(swallow_exceptions=False)\n"
        + f"import runpy; runpy.run_path({str(PROGRAMS / f'{program}.py')!r}, run_name='__main__')\n"
    )
    done = run([sys.executable, str(starter)], cwd=tmp_path, env=NO_EXPORT)
    assert done.returncode == 3, done.stderr
    assert done.stderr == "closing\n"
    assert starts(tmp_path / "papyra-facts") >= 4


# --- OTEL_LOGS_EXPORTER=papyra ---------------------------------------------------------------------------

EVENTS = """
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
import logging, pykka

class Echo(pykka.ThreadingActor):
    def on_receive(self, message):
        return message

with trace.get_tracer("shop").start_as_current_span("order") as span:
    context = span.get_span_context()
    get_logger("shop").emit(LogRecord(
        event_name="shop.order.paid", severity_text="INFO2", severity_number=SeverityNumber.INFO2,
        attributes={"cents": 700, "tags": ["a", "b"]}, body={"note": "thanks"}, timestamp=1_700_000_000_000_000_007,
    ))
    echo = Echo.start(); echo.ask(1); echo.stop()
logging.getLogger("shop").warning("no event: passed over")
print(f"{context.trace_id:032x} {context.span_id:016x}")
"""


@pytest.mark.slow
def test_events_of_the_application_become_facts_and_ours_do_not_come_round(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(EVENTS, "utf-8")
    env = NO_EXPORT | {"OTEL_LOGS_EXPORTER": "papyra", "OTEL_PYTHON_PAPYRA_FORWARD_MESSAGES": "true"}
    done = run(command(tmp_path / "app.py", instrument=True), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    trace_id, span_id = done.stdout.split()
    root = tmp_path / "papyra-facts"
    facts = stored(root)
    assert Counter(fact.name for fact in facts) == {
        "shop.order.paid": 1,
        s.ACTOR_STARTED: 1,
        s.MESSAGE_PROCESSED: 1,
        s.ACTOR_STOPPED: 1,
    }
    (paid,) = stored(root, name="shop.order.paid")
    assert (paid.trace_id, paid.span_id, paid.severity) == (trace_id, span_id, "INFO2")
    assert paid.time_unix_nano == 1_700_000_000_000_000_007
    assert paid.attributes["cents"] == 700
    assert paid.attributes["tags"] == ["a", "b"]
    assert paid.attributes[s.EVENT_BODY] == {"note": "thanks"}
    assert all(segments(root).values()), "the SDK's last batch came after our exit handler: seal once more"


@pytest.mark.slow
def test_the_exporter_alone_records_events_without_any_runtime(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(EVENTS, "utf-8")
    env = NO_EXPORT | {"OTEL_LOGS_EXPORTER": "papyra", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}
    done = run(command(tmp_path / "app.py", instrument=True), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "papyra-facts"
    assert [fact.name for fact in stored(root)] == ["shop.order.paid"]


# --- declarative configuration ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None, reason="opentelemetry-configuration is not installed"
)
def test_a_configuration_file_chooses_the_log(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BOTH, "utf-8")
    (tmp_path / "otel.yaml").write_text(
        "file_format: '1.0'\n"
        "instrumentation/development:\n"
        "  python:\n"
        "    papyra:\n"
        f"      log: file:{tmp_path}/chosen\n"
        "      system: yours\n"
        "      messages: 'off'\n"
        "    pykka:\n"
        "      audit_interval: 30\n",
        "utf-8",
    )
    env = {"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml")}
    done = run([INSTRUMENT, sys.executable, str(tmp_path / "app.py")], cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == (BOTH_SAY, 0), done.stderr
    assert not (tmp_path / "papyra-facts").exists()
    assert systems(tmp_path / "chosen") == {"yours"}
    assert s.MESSAGE_PROCESSED not in {fact.name for fact in stored(tmp_path / "chosen")}


def test_the_configuration_is_a_dataclass_whose_keys_are_the_settings() -> None:
    from dataclasses import fields

    from papyra_otel import config
    from papyra_otel.auto import PapyraInstrumentor, PykkaInstrumentor, RecordingConfiguration

    variables = {name for name in vars(config) if name.startswith("OTEL_PYTHON_PAPYRA_")}
    keys = {f"OTEL_PYTHON_PAPYRA_{field.name.upper()}" for field in fields(RecordingConfiguration)}
    assert keys == variables
    assert PapyraInstrumentor.configuration is PykkaInstrumentor.configuration is RecordingConfiguration


def test_a_configuration_object_is_honoured_as_its_values_are(tmp_path: Path) -> None:
    from papyra_otel.auto import PykkaInstrumentor, RecordingConfiguration

    configuration = RecordingConfiguration(log=f"file:{tmp_path}/facts", system="mine")
    PykkaInstrumentor().instrument(configuration=configuration)
    one_actor()
    assert systems(tmp_path / "facts") == {"mine"}
