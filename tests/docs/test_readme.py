"""What the documents show is run: each block of code in README.md and docs/, and each shell session.

* ``python`` blocks are executed, each in a process and a folder of its own. With ``title=app.py`` in the
  info string the block is written to that file instead, for the shell sessions of the same document.
* ``console`` and ``bash`` blocks: of the lines that begin with ``$ ``, those that call our command, Python or
  ``opentelemetry-instrument`` are run, in order, all in one folder per document. The lines shown below a
  command must be exactly what it prints; ``…`` stands for any text, alone on a line for any number of lines.
* ``<!-- exits 1 -->`` before a block: its commands end with that status. ``<!-- not run: why -->``: they are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"papyra-otel", "python", "opentelemetry-instrument"}

_FENCE = re.compile(
    r"""^(?P<indent>[ ]*)(?P<fence>```+)(?P<language>\w*)[ ]*(?P<info>[^\n]*)\n
        (?P<text>.*?)
        ^(?P=indent)(?P=fence)[ ]*$""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_COMMENT = re.compile(r"<!--\s*(?:exits\s+(?P<status>\d+)|not run:\s*(?P<reason>.+?))\s*-->\s*\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a document. *line* is where its first line stands, counted from 1."""

    line: int
    language: str
    text: str
    title: str | None = None
    status: int = 0
    not_run: str | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a shell session, and what the document shows below it."""

    line: str
    shown: list[str]

    @property
    def is_run(self) -> bool:
        words = [word for word in shlex.split(self.line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        return bool(words) and words[0] in RUN


def blocks_of(markdown: str) -> list[Block]:
    """Return the fenced blocks of *markdown*, in order."""
    blocks: list[Block] = []
    end_of_last = 0
    for found in _FENCE.finditer(markdown):
        comment = _COMMENT.search(markdown[end_of_last : found.start()])
        title = re.search(r"\btitle=(\S+)", found["info"])
        blocks.append(
            Block(
                line=markdown.count("\n", 0, found.start("text")) + 1,
                language=found["language"],
                text=textwrap.dedent(found["text"]),
                title=title[1].strip("\"'") if title else None,
                status=int(comment["status"]) if comment and comment["status"] else 0,
                not_run=comment["reason"] if comment else None,
            )
        )
        end_of_last = found.end()
    return blocks


def commands_of(session: str) -> list[Command]:
    """Return the commands of a shell session. A line that ends with a backslash goes on in the next."""
    commands: list[Command] = []
    for line in re.sub(r"\\\n(?:> )?\s*", "", session).splitlines():
        if line.startswith("$ "):
            commands.append(Command(line=line[2:].strip(), shown=[]))
        elif commands:
            commands[-1].shown.append(line.rstrip())
    for command in commands:
        while command.shown and not command.shown[-1]:
            command.shown.pop()
    return commands


def is_as_shown(printed: str, shown: list[str]) -> bool:
    """Say whether *printed* is what a document shows: nothing shown is no claim."""
    if not shown:
        return True
    lines = [r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in shown]
    text = "".join(line.rstrip() + "\n" for line in printed.rstrip().splitlines())
    return re.fullmatch("".join(lines), text) is not None


def environment() -> dict[str, str]:
    """Return a reader's environment: our commands are installed, nothing of OpenTelemetry is set.

    The test environment has opentelemetry-distro, which would export to a collector that is not there.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTEST_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), plain["PATH"]])
    no_collector = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("LOGS", "METRICS", "TRACES")}
    shown = {"PATH": path, "COLUMNS": "140", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    return {**plain, **no_collector, **shown}


def run(arguments: list[str], folder: Path, *, status: int, where: str) -> str:
    """Run *arguments* in *folder* and return what they print, both outputs in one."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == status, f"{where}: exit status {done.returncode}, not {status}:\n{done.stdout}"
    return done.stdout


def run_block(block: Block, session_folder: Path, own_folder: Path, where: str) -> None:
    """Do with *block* what the module's text says."""
    if block.not_run:
        return
    if block.language == "python" and block.title:
        (session_folder / block.title).write_text(block.text, "utf-8")
    elif block.language == "python":
        own_folder.mkdir()
        script = own_folder / "block.py"
        script.write_text(block.text, "utf-8")
        run([sys.executable, str(script)], own_folder, status=block.status, where=where)
    elif block.language in {"console", "bash"}:
        for command in filter(lambda command: command.is_run, commands_of(block.text)):
            told = f"{where}: $ {command.line}"
            printed = run(["bash", "-c", command.line], session_folder, status=block.status, where=told)
            assert is_as_shown(printed, command.shown), (
                f"{told}\nprints\n{printed}\nbut shown is\n" + "\n".join(command.shown)
            )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_document_shows_is_what_happens(document: Path, tmp_path: Path) -> None:
    session_folder = tmp_path / "session"
    session_folder.mkdir()
    for block in blocks_of(document.read_text("utf-8")):
        where = f"{document.relative_to(ROOT)}:{block.line}"
        run_block(block, session_folder, tmp_path / f"line-{block.line}", where)


SAMPLE = """\
# A document

```python title=app.py
print("good morning")
print("bye")
```

<!-- exits 3 -->

```python
raise SystemExit(3)
```

1. In a list:

   ```console
   $ python app.py
   good…
   bye
   $ pip install something
   $ NAME=value python -c \\
       'print(1)'
   …
   ```

<!-- not run: needs a collector -->
```bash
$ python no-such-file.py
```

```
no language
```
"""


def test_blocks_are_found_with_line_language_title_and_what_the_comment_says() -> None:
    app, failing, session, not_run, plain = blocks_of(SAMPLE)
    assert (app.line, app.language, app.title) == (4, "python", "app.py")
    assert app.text == 'print("good morning")\nprint("bye")\n'
    assert (failing.title, failing.status, failing.not_run) == (None, 3, None)
    assert (session.language, session.status) == ("console", 0)
    assert session.text.startswith("$ python app.py\ngood…\n")
    assert not_run.not_run == "needs a collector"
    assert (plain.language, plain.not_run) == ("", None)


def test_commands_of_a_session_have_the_lines_shown_below_them() -> None:
    first, foreign, last = commands_of(blocks_of(SAMPLE)[2].text)
    assert (first.line, first.shown, first.is_run) == ("python app.py", ["good…", "bye"], True)
    assert (foreign.line, foreign.is_run) == ("pip install something", False)
    assert (last.line, last.shown, last.is_run) == ("NAME=value python -c 'print(1)'", ["…"], True)


def test_setting_up_the_tree_is_not_run_from_within_its_own_tests() -> None:
    assert not Command(line="python3 -m venv .venv && .venv/bin/nox", shown=[]).is_run


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a\n", ["a"], True),
        ("a  \n\n", ["a"], True),
        ("a\n", ["b"], False),
        ("a\nb\n", ["a"], False),
        ("a\nb\n", ["a", "…"], True),
        ("a\n", ["a", "…"], True),
        ("a\nb\nc\n", ["…", "c"], True),
        ("12 facts (3.4 kB)\n", ["12 facts (… kB)"], True),
        ("12 facts\nmore\n", ["12…more"], False),
        ("a.b\n", ["a?b"], False),
        ("anything\n", [], True),
    ],
)
def test_printed_lines_are_compared_whole_and_dots_stand_for_any_text(
    printed: str,
    shown: list[str],
    same: bool,
) -> None:
    assert is_as_shown(printed, shown) is same


def test_a_whole_document_is_run_in_order(tmp_path: Path) -> None:
    for block in blocks_of(SAMPLE):
        run_block(block, tmp_path, tmp_path / str(block.line), "sample")


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\nraise ValueError\n```",
        "```console\n$ python -c 'raise SystemExit(2)'\n```",
        "```console\n$ python -c 'print(1)'\n2\n```",
        "<!-- exits 1 -->\n```console\n$ python -c 'print(1)'\n```",
    ],
)
def test_a_document_that_is_wrong_is_told(wrong: str, tmp_path: Path) -> None:
    (block,) = blocks_of(wrong)
    with pytest.raises(AssertionError, match="sample"):
        run_block(block, tmp_path, tmp_path / "own", "sample")
