"""The two sides: the same small records written, read, scanned, repaired and compacted by each.

A side is used the way its own documentation says. What it answers is read back from the disk by a fresh
object, so that nothing is believed that is not there.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from papyra.persistence.backends.retention import RetentionPolicy
from papyra.persistence.json import JsonFilePersistence
from papyra.persistence.models import (
    PersistedDeadLetter,
    PersistedEvent,
    PersistenceRecoveryConfig,
    PersistenceRecoveryMode,
)

import papyra_otel
from e2e.harness import clean_environment
from papyra_otel import Fact, FactKind, open_log
from papyra_otel.log.file import FileLog

PROGRAMS = Path(__file__).parent / "programs"
BEGIN_UNIX_NANO = 1_795_384_461_000_000_000
SYSTEM = "shop"
_T = TypeVar("_T")


def body_of(n: int) -> dict[str, Any]:
    """Return the payload of record number *n*, not all of it ASCII."""
    return {"n": n, "note": f"Grüße {n * 7919 % 10_007} 🦉", "amount": n / 8, "tags": ["a", str(n)]}


def run(program: Coroutine[Any, Any, _T]) -> _T:
    """Run one coroutine of papyra's to its end."""
    return asyncio.run(program)


# --- papyra 0.3.0 -------------------------------------------------------------------------------------


def papyra_event(n: int) -> PersistedEvent:
    """Return record number *n* as an event of papyra's."""
    return PersistedEvent(
        system_id=SYSTEM,
        actor_address=f"{SYSTEM}://{n % 3}",
        event_type="Processed",
        payload=body_of(n),
        timestamp=BEGIN_UNIX_NANO / 1e9 + n,
    )


def papyra_letter(n: int) -> PersistedDeadLetter:
    """Return record number *n* as a dead letter of papyra's."""
    return PersistedDeadLetter(
        system_id=SYSTEM,
        target=f"{SYSTEM}://{n % 3}",
        message_type="Order",
        payload=body_of(n),
        timestamp=BEGIN_UNIX_NANO / 1e9 + n,
    )


class PapyraSide:
    """papyra's JSON file."""

    name = "papyra"

    def __init__(self, folder: Path, retention: RetentionPolicy | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "papyra.ndjson"
        self.retention = retention

    def open(self) -> JsonFilePersistence:
        return JsonFilePersistence(self.path, retention_policy=self.retention)

    def write(self, numbers: Iterable[int], *, letters: bool = False) -> None:
        async def record() -> None:
            backend = self.open()
            for n in numbers:
                if letters:
                    await backend.record_dead_letter(papyra_letter(n))
                else:
                    await backend.record_event(papyra_event(n))
            await backend.aclose()

        run(record())

    def read(self, *, letters: bool = False) -> list[Any]:
        """Return the payloads that are there."""
        backend = self.open()
        found = run(backend.list_dead_letters() if letters else backend.list_events())
        return [record.payload for record in found]

    def records(self) -> list[PersistedEvent]:
        """Return the whole records that are there."""
        return list(run(self.open().list_events()))

    def noticed(self) -> bool:
        """Say whether a scan finds anything; it may raise."""
        return run(self.open().scan()).has_anomalies

    def repair(self) -> None:
        config = PersistenceRecoveryConfig(mode=PersistenceRecoveryMode.REPAIR)
        run(self.open().recover(config))

    def compact(self) -> None:
        run(self.open().compact())


# --- ours ---------------------------------------------------------------------------------------------


def our_fact(n: int, kind: FactKind = FactKind.EVENT) -> Fact:
    """Return record number *n* as a fact."""
    return Fact(
        kind=kind,
        name="shop.processed",
        time_unix_nano=BEGIN_UNIX_NANO + n * 1_000_000_000,
        system=SYSTEM,
        actor=f"{SYSTEM}/{n % 3}",
        attributes=body_of(n),
    )


class OurSide:
    """Our file log."""

    name = "ours"

    def __init__(self, folder: Path, retention: str | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.root = folder / "facts"
        self.retention = retention

    def open(self) -> FileLog:
        log = open_log(f"file://{self.root}", retention=self.retention)
        assert isinstance(log, FileLog)
        return log

    def write(self, numbers: Iterable[int], *, letters: bool = False) -> None:
        with self.open() as log:
            log.prepare()
            for n in numbers:
                log.append([our_fact(n, FactKind.DEAD_LETTER if letters else FactKind.EVENT)])

    def read(self, *, letters: bool = False) -> list[Any]:
        """Return the payloads that are there, without what the log tells about itself."""
        with self.open() as log:
            found = log.read(kinds=FactKind.DEAD_LETTER if letters else FactKind.EVENT, name="shop.processed")
            return [entry.fact.attributes for entry in found]

    def records(self) -> list[Fact]:
        """Return the whole facts that are there."""
        with self.open() as log:
            return [entry.fact for entry in log.read(kinds=FactKind.EVENT, name="shop.processed")]

    def noticed(self) -> bool:
        """Say whether a scan finds anything to look at."""
        with self.open() as log:
            return not log.scan().healthy

    def repair(self) -> None:
        with self.open() as log:
            log.recover("repair")

    def compact(self) -> None:
        with self.open() as log:
            log.compact()

    def segment(self) -> Path:
        """Return the only segment of events there is."""
        (path,) = (self.root / SYSTEM / "events").glob("*.ndjson")
        return path


# --- programs -----------------------------------------------------------------------------------------


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program of this folder, to be spoken to by lines on its pipes."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    )


def finish(program: subprocess.Popen[str], *, code: int | None = 0) -> str:
    """Close the program's stdin, wait for its end and return the rest that it printed."""
    printed, complaint = program.communicate(timeout=50)
    assert code is None or program.returncode == code, f"{program.returncode}\n{printed}\n{complaint}"
    return printed


def _environment() -> dict[str, str]:
    """Give a program what these tests import, and the very package that is tested here."""
    folders = (PROGRAMS.parents[1], Path(papyra_otel.__file__).parents[1])
    return clean_environment({"PYTHONPATH": os.pathsep.join(map(str, folders))})
