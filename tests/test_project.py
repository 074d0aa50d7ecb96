"""The project about itself: what is written in two places agrees."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
DECISIONS = ROOT / "docs/decisions"


def nox_sessions() -> list[ast.FunctionDef]:
    """Return the functions of the noxfile that are sessions."""
    functions = [node for node in NOXFILE.body if isinstance(node, ast.FunctionDef)]
    return [f for f in functions if any("nox.session" in ast.unparse(d) for d in f.decorator_list)]


def test_the_public_names_are_listed_sorted_and_complete() -> None:
    papyra_otel = importlib.import_module("papyra_otel")
    public = {
        name
        for name, value in vars(papyra_otel).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("papyra_otel")
    }
    assert list(papyra_otel.__all__) == sorted(papyra_otel.__all__)
    assert public <= set(papyra_otel.__all__)
    assert set(papyra_otel._HOME_OF) == set(papyra_otel.__all__)
    assert [name for name in papyra_otel.__all__ if not hasattr(papyra_otel, name)] == []


@pytest.mark.parametrize("session", nox_sessions(), ids=lambda session: session.name)
def test_every_nox_session_says_in_one_line_what_it_does(session: ast.FunctionDef) -> None:
    docstring = ast.get_docstring(session)
    assert docstring, f"nox --list would show nothing for {session.name}"
    assert "\n" not in docstring


def test_the_noxfile_has_the_sessions_we_know() -> None:
    assert {"lint", "layers", "types", "tests", "runtimes", "otel", "demo", "package"} <= {
        session.name for session in nox_sessions()
    }


def test_nox_tests_the_pythons_of_the_classifiers_and_no_list_of_its_own() -> None:
    assert "nox.project.python_versions(PYPROJECT)" in ast.unparse(NOXFILE)
    classifiers = PYPROJECT["project"]["classifiers"]
    minors = [int(found[1]) for c in classifiers if (found := re.fullmatch(r".* :: 3\.(\d+)", c))]
    assert minors == list(range(10, max(minors) + 1))
    assert PYPROJECT["project"]["requires-python"] == f">=3.{minors[0]}"


def test_the_version_comes_from_the_tags_alone() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert "version" not in PYPROJECT["project"]


def test_every_decision_is_in_the_index_and_the_index_names_no_other() -> None:
    linked = re.findall(
        r"^- \[.+\]\((\d{4}-.+\.md)\)", (DECISIONS / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert linked == sorted(path.name for path in DECISIONS.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_every_decision_has_the_form(path: Path) -> None:
    text = path.read_text("utf-8").lower()
    parts = ("we want", "we chose", "instead of", "what it costs", "what would change our mind")
    assert [part for part in parts if part not in text] == []
    assert text.startswith(f"# {path.name[:4]}: ")


def test_every_news_fragment_has_a_name_towncrier_knows() -> None:
    headings = "|".join(kind["directory"] for kind in PYPROJECT["tool"]["towncrier"]["type"])
    fragments = [path.name for path in (ROOT / ".changelog").iterdir() if path.name != "README.md"]
    assert [name for name in fragments if not re.fullmatch(rf"\d+\.({headings})(\.\d+)?\.md", name)] == []
    assert fragments or "\n## " in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X"])
def test_no_source_file_puts_work_off(word: str) -> None:
    marked = [
        path for path in (ROOT / "src").rglob("*.py") if re.search(rf"\b{word}\b", path.read_text("utf-8"))
    ]
    assert marked == []


def commands_of_the_readme() -> list[str]:
    """Return the command lines of the README that call nox, without what gets and enters the tree."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if "/nox" in line and "pip install" in line]


def test_ci_runs_the_very_command_that_the_readme_gives_for_the_tests() -> None:
    commands = commands_of_the_readme()
    (for_the_tests,) = [command for command in commands if command.endswith("/nox")]
    (for_the_demo,) = [command for command in commands if command.endswith("/nox -s demo")]
    assert for_the_demo == f"{for_the_tests} -s demo"
    ci = (ROOT / ".ci/run").read_text("utf-8")
    assert f"\n{for_the_tests} || status=$?\n" in ci
    assert ci.count("/bin/nox") == 1
