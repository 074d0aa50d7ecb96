"""A collector is killed in the middle: what gets through all the same, by which way."""

# ruff: noqa: T201 - figures for docs/collector.md

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.running import PATIENCE, Collector
from collector.truth import expected
from delivery.conftest import record
from e2e.harness import clean_environment, command, eventually, run, serving

FACTS = 3000
PER_TURN = 500
PROGRAM = Path(__file__).parent / "programs" / "pykka_turns.py"
SHIP = [str(Path(sys.executable).parent / "papyra-otel"), "ship", "--follow"]


def test_the_agent_killed_in_the_middle_loses_nothing(
    gateway: Collector, new_collector: Callable[..., Collector], tmp_path: Path
) -> None:
    root = tmp_path / "facts"
    uids = set(record(f"file:{root}", range(FACTS)))
    agent = new_collector("agent", "agent.yaml", PAPYRA_FACTS=str(root), GATEWAY=gateway.at("grpc")).start()
    eventually(gateway.count, PATIENCE)
    agent.kill()
    uids |= set(record(f"file:{root}", range(FACTS, FACTS + 50)))
    agent.start()
    eventually(lambda: uids <= gateway.count().keys(), PATIENCE)
    assert gateway.count().keys() == uids


def test_the_gateway_killed_while_the_agent_sends_loses_nothing(
    gateway: Collector, new_collector: Callable[..., Collector], tmp_path: Path
) -> None:
    root = tmp_path / "facts"
    uids = set(record(f"file:{root}", range(FACTS)))
    agent = new_collector("agent", "agent.yaml", PAPYRA_FACTS=str(root), GATEWAY=gateway.at("grpc")).start()
    eventually(gateway.count, PATIENCE)
    gateway.kill()
    uids |= set(record(f"file:{root}", range(FACTS, FACTS + 50)))
    agent.kill()  # with what it has queued
    agent.start()
    gateway.start()
    eventually(lambda: uids <= gateway.count().keys(), PATIENCE)
    assert gateway.count().keys() == uids


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_gateway_killed_while_an_outbox_delivers_loses_nothing(
    protocol: str, gateway: Collector, tmp_path: Path
) -> None:
    root = tmp_path / "facts"
    uids = set(record(f"file:{root}", range(FACTS)))
    env = gateway.otlp(protocol)
    ship = [*SHIP, "--rate", "2000", "--log", f"file:{root}"]
    with subprocess.Popen(ship, env=clean_environment(env), cwd=tmp_path, stderr=subprocess.PIPE) as shipping:
        try:
            eventually(gateway.count, PATIENCE)
            gateway.kill()
            uids |= set(record(f"file:{root}", range(FACTS, FACTS + 50)))
            gateway.start()
            eventually(lambda: uids <= gateway.count().keys(), PATIENCE)
        finally:
            shipping.kill()
    assert gateway.count().keys() == uids


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_gateway_killed_while_a_program_delivers_by_itself_loses_nothing(
    protocol: str, gateway: Collector, tmp_path: Path
) -> None:
    outbox = {
        **gateway.otlp(protocol),
        "OTEL_PYTHON_PAPYRA_FORWARD": "outbox",
        "OTEL_METRICS_EXPORTER": "none",
    }
    with serving(command(PROGRAM, instrument=True), cwd=tmp_path, env=outbox) as program:
        work(program)
        eventually(gateway.count, PATIENCE)
        gateway.kill()
        work(program)
        gateway.start()
        work(program)
        eventually(lambda: len(gateway.count()) >= 3 * PER_TURN, PATIENCE)
        program.communicate(timeout=PATIENCE)
    logged = expected(tmp_path / "papyra-facts")
    eventually(lambda: logged.keys() <= gateway.count().keys(), PATIENCE)
    assert gateway.count().keys() == logged.keys()


def test_live_what_is_under_way_when_the_collector_is_away_to_the_end_does_not_arrive_and_is_in_the_log(
    gateway: Collector, tmp_path: Path
) -> None:
    with serving(command(PROGRAM, instrument=True), cwd=tmp_path, env=live(gateway)) as program:
        work(program)
        eventually(lambda: len(gateway.count()) >= PER_TURN, PATIENCE)
        gateway.kill()
        work(program)
        program.communicate(timeout=PATIENCE)
    logged, arrived = expected(tmp_path / "papyra-facts"), gateway.count()
    assert arrived.keys() < logged.keys()
    assert set(arrived.values()) == {1}
    print(f"live, collector away to the end: {len(arrived)} of {len(logged)} arrived")
    gateway.start()
    ship = [*SHIP[:2], "--log", "file:papyra-facts"]
    done = run(ship, cwd=tmp_path, env=gateway.otlp("grpc"), seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (
        gateway.count().keys() == logged.keys()
    )  # nothing is lost for good: the log can be shipped afterwards


def test_live_a_collector_that_comes_back_gets_what_the_sdk_still_had(
    gateway: Collector, tmp_path: Path
) -> None:
    with serving(command(PROGRAM, instrument=True), cwd=tmp_path, env=live(gateway)) as program:
        work(program)
        eventually(lambda: len(gateway.count()) >= PER_TURN, PATIENCE)
        gateway.kill()
        for _ in range(8):  # more than the SDK's queue of 2,048 holds
            work(program)
        gateway.start()
        work(program)
        program.communicate(timeout=PATIENCE)
    logged, arrived = expected(tmp_path / "papyra-facts"), gateway.count()
    assert arrived.keys() < logged.keys()
    print(f"live, collector killed and back: {len(arrived)} of {len(logged)} arrived")


def live(gateway: Collector) -> dict[str, str]:
    """Return the settings of a program that forwards live."""
    return {**gateway.otlp("grpc"), "OTEL_EXPORTER_OTLP_TIMEOUT": "2", "OTEL_METRICS_EXPORTER": "none"}


def work(program: subprocess.Popen[str]) -> None:
    """Let the program start and stop actors: at least PER_TURN facts, none of them like another."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("go\n")
    program.stdin.flush()
    assert program.stdout.readline() == "done\n", program.stderr
