"""``papyra-otel demo``: a small actor system has a bad day; this is what was recorded of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from papyra_otel.cli.logs import add_json_option
from papyra_otel.cli.screen import Cell
from papyra_otel.cli.text import size
from papyra_otel.cli.timeline import JsonTimeline, TableTimeline
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.errors import ConfigError
from papyra_otel.facts import Entry, FactKind
from papyra_otel.log import open_log

__all__ = ["DEMO"]

_PROGRAM = Path(__file__).with_name("demo_system.py")
_NEEDS = ("papyra", "pykka")
_SECONDS_MAX = 60

_DESCRIPTION = """\
Run a small shop on papyra and its warehouse on pykka, with crashes, a restart, a restart too many, dead
letters and an audit; record them in a log of their own; show what was recorded, and where it is.

Needs no collector, no Redis and no network. The program is demo_system.py beside this one: read it.
--json prints the facts as `papyra-otel facts --json` does, and the rest on standard error.
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="record into this folder, new or empty (default: a new temporary one, kept)",
    )
    add_json_option(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    _check_runtimes()
    folder = _folder(args.dir)
    url = folder.as_uri()
    with open_log(url) as log:
        log.prepare()
        _record(url, folder)
        entries = list(log.read())
    timeline = JsonTimeline(here.screen) if args.json else TableTimeline(here.screen)
    if not args.json:
        here.screen.line(
            Cell("papyra-otel recorded a bad day of a shop (papyra) and its warehouse (pykka):", "bold")
        )
        here.screen.line()
    timeline.print(entries)
    _print_rest(entries, folder, url, args, here)
    return 0


def _check_runtimes() -> None:
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {' and '.join(missing)}; pip install 'papyra-otel[demo]'")


def _folder(chosen: str | None) -> Path:
    if chosen is None:
        return Path(tempfile.mkdtemp(prefix="papyra-otel-demo-"))
    folder = Path(chosen).absolute()
    if folder.is_dir() and os.access(folder, os.R_OK) and any(folder.iterdir()):
        raise ConfigError(
            f"--dir {chosen}: that folder is not empty; choose a new one, so that the demo stands alone"
        )
    return folder


def _record(url: str, folder: Path) -> None:
    """Run the program in a process of its own, where no setting of the caller's reaches it."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(  # noqa: S603 - our own program, by our own Python
        [sys.executable, "-m", "papyra_otel.cli.demo_system", url],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS_MAX,
        check=False,
        encoding="utf-8",
        errors="backslashreplace",
    )
    if done.returncode != 0 or done.stderr:
        raise RuntimeError(f"the demo's program ended with {done.returncode}:\n{done.stderr}")


def _print_rest(
    entries: Sequence[Entry], folder: Path, url: str, args: Namespace, here: Surroundings
) -> None:
    files = sorted(folder.rglob("*.ndjson"))
    listed = [f"  {path.relative_to(folder)}  {size(path.stat().st_size)}" for path in files]
    sections: list[tuple[str, list[str]]] = [
        (_summary(entries), []),
        (f"The files, in {folder}:", listed),
        ("The program, to read beside it:", [f"  {_PROGRAM}"]),
        (f"Try next ({_own_path()}):", [f"  {command}" for command in _commands(folder, url)]),
    ]
    for title, lines in sections:
        for text, style in (("", ""), (title, "bold"), *((line, "") for line in lines)):
            if args.json:
                here.screen.remark(text)
            else:
                here.screen.line(Cell(text, style))


def _summary(entries: Sequence[Entry]) -> str:
    counts = Counter(entry.fact.kind for entry in entries)
    by_kind = ", ".join(f"{counts[kind]} {kind.plural.replace('_', ' ')}" for kind in FactKind)
    return f"{len(entries)} facts: {by_kind}."


def _own_path() -> str:
    """Say where our command is: an environment that nox made is not on the reader's PATH."""
    beside = Path(sys.executable).with_name("papyra-otel")
    return (
        f"papyra-otel is {beside}" if beside.exists() else f"papyra-otel is {sys.executable} -m papyra_otel"
    )


def _commands(folder: Path, url: str) -> list[str]:
    log, path = shlex.quote(url), shlex.quote(str(folder))
    return [
        f"papyra-otel facts --log {log} --kind dead_letter",
        f"papyra-otel facts --log {log} --name actor.exception --json",
        f"papyra-otel stats --log {log}",
        f"""jq -r 'select(.severity == "ERROR") | [.time, .actor, .name] | @tsv' {path}/*/events/*.ndjson""",
    ]


DEMO = Verb(
    name="demo",
    help="record a small actor system that crashes, and show what was recorded",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
