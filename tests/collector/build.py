"""The real collector: built once by the official builder from collector-config/builder.yaml, and kept in a cache.

``python tests/collector/build.py`` builds it, too, and prints where it is.
"""

# ruff: noqa: T201 - it says what it built, and where

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "collector-config"
MANIFEST = CONFIGS / "builder.yaml"
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.165.0"
FLAGS = ["--ldflags=-s -w"]  # without symbols: linking is faster, the file a third smaller
ASKED = (
    "there is no Go to build a collector with: https://go.dev/dl (1.25 or newer), or apt install golang-go"
)


def find_go() -> str | None:
    """Return the Go on PATH, or where Go's own installer puts it."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def cache_folder() -> Path:
    """Return where programs may keep what can be made again; it is outside of this tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "papyra-otel")


def collector(go: str) -> Path:
    """Return the collector of this manifest, builder and Go; build it if nobody has yet. Processes wait for each other.

    Raises RuntimeError with what the builder said when it cannot be built.
    """
    version = subprocess.run([go, "version"], capture_output=True, check=True, text=True).stdout
    made_from = "\0".join([MANIFEST.read_text("utf-8"), BUILDER, *FLAGS, version])
    folder = cache_folder() / f"collector-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    program = folder / "papyra-collector"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of processes that want it at once, one builds
        if not program.exists():
            _build(go, program)
    return program


def _build(go: str, program: Path) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="papyra-collector-") as folder:
        sources = Path(folder, "sources")
        manifest = Path(folder, "builder.yaml")
        text = re.sub(r"(?m)^(\s+output_path:).*", rf"\1 {sources}", MANIFEST.read_text("utf-8"))
        manifest.write_text(text, "utf-8")
        environment = {
            **os.environ,
            "PATH": f"{Path(go).parent}{os.pathsep}{os.environ['PATH']}",
            "CGO_ENABLED": "0",
        }
        command = [go, "run", BUILDER, f"--config={manifest}", *FLAGS]
        done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
        built = sources / "papyra-collector"
        if done.returncode != 0 or not built.exists():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
        unfinished = program.with_suffix(".new")
        shutil.copy2(built, unfinished)
        unfinished.rename(program)
    print(f"built {program} in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    print(collector(find_go() or sys.exit(ASKED)))
