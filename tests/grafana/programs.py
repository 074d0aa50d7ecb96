"""Where the programs are that the tests of rules and dashboards need, and how they are run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import missing

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
}


def program(name: str) -> str:
    """Return the path of *name*; skip, or fail in CI, where it is missing."""
    found = shutil.which(name)
    if found is None:
        missing(f"there is no {name}: apt-get install {PACKAGES.get(name, name)}")
    return str(found)


def npm_installed(folder: Path) -> Path:
    """Return *folder* with the packages of its lock file installed; node is the one of the PyPI wheel."""
    if not (folder / "node_modules" / ".package-lock.json").exists():
        done = ran([program("npm"), "ci", "--no-audit", "--no-fund"], cwd=folder, timeout=400)
        if done.returncode != 0:
            missing(f"npm ci in {folder} failed: {done.stderr[-500:]}")
    return folder


def ran(
    command: Sequence[str], *, cwd: Path | None = None, timeout: float = 60, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run *command* and return what became of it."""
    return subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )


def passed(command: Sequence[str], **options) -> str:
    """Run *command*, which has to succeed, and return what it printed."""
    done = ran(command, **options)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
