"""Tables in the documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import papyra_otel
from papyra_otel import Recorder, config
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.runtimes.adapter import CAPABILITIES
from papyra_otel.runtimes.dramatiq import DramatiqAdapter
from papyra_otel.runtimes.known import RUNTIMES
from papyra_otel.runtimes.papyra import PapyraAdapter
from papyra_otel.runtimes.pykka import PykkaAdapter
from papyra_otel.runtimes.ray import RayAdapter

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
SOURCES = Path(papyra_otel.__file__).parent


class Nowhere:
    def emit(self, **event):
        pass


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("column", "adapter"), [(1, PapyraAdapter), (2, PykkaAdapter), (3, DramatiqAdapter), (4, RayAdapter)]
)
def test_the_table_of_runtimes_is_what_the_adapters_can(column, adapter):
    counters = Counters()
    made = adapter(Recorder(Nowhere(), counters), Guard(counters), "s")
    able = made.capabilities().able
    rows = table_rows((DOCS / "runtimes.md").read_text())
    told = {row[0]: row[column] for row in rows if len(row) > column}
    assert {ability.value: told[ability.value] for ability in CAPABILITIES} == {
        ability.value: "yes" if ability in able else "no" for ability in CAPABILITIES
    }


def test_the_table_of_dead_letters_has_every_reason_and_each_has_a_test_of_its_runtime():
    attributes = yaml.safe_load((SOURCES / "registry" / "attributes.yaml").read_text())["attributes"]
    (reasons,) = (each["type"]["members"] for each in attributes if each["key"] == s.DEAD_LETTER_REASON)
    rows = {row[0].strip("`"): row[1:] for row in table_rows((DOCS / "runtimes.md").read_text())}
    for reason in (member["value"] for member in reasons):
        for runtime, told in zip(RUNTIMES, rows[reason], strict=True):
            tests = [path.read_text() for path in (TESTS / "runtimes").glob(f"test_{runtime}*.py")]
            assert told in {"", "yes"}
            assert not told or any(f'"{reason}"' in text for text in tests), f"{reason} of {runtime}: no test"


DEFAULTS = {
    "log": "file:papyra-facts",
    "messages": "all",
    "audit_interval": "60s",
    "exit_timeout": "2s",
    "metrics_socket": "false",
    "scan_interval": "off",
    "spill": "off",
    "forward_messages": "false",
    "forward_payload": "false",
    "group": "",
}


def test_every_setting_is_documented_with_its_default():
    rows = {
        row[0].strip("`"): row[1].strip("`") for row in table_rows((DOCS / "configuration.md").read_text())
    }
    assert set(rows) >= {name.upper() for name in config._FIELDS}
    by_text = config.Settings.load(DEFAULTS, {})
    assert by_text == config.Settings()
    for name, field in config._FIELDS.items():
        default = getattr(config.Settings(), field)
        if name not in {"system", "retention", "write"}:  # told in words
            assert rows[name.upper()] == DEFAULTS.get(name, getattr(default, "value", None))


def test_links_between_documents_lead_somewhere():
    root = DOCS.parent
    for document in [root / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target and target != "NNNN-title.md":
                assert (document.parent / target).exists(), f"{document.relative_to(root)} links to {target}"
