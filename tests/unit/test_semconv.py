"""Names on the wire follow the rules, are documented, and are written once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from papyra_otel import semconv
from papyra_otel.pipeline.metrics import COUNTED

ROOT = Path(__file__).parents[2]
NAMES = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
NAMES -= {semconv.SCOPE_NAME, semconv.SCHEMA_URL, semconv.OTHER, semconv.STATE}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_is_lower_case_words_with_dots_between_namespaces(name):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*(\.[a-z]+(_[a-z]+)*)*", name)
    assert not name.endswith("_total")


def test_the_code_writes_no_name_outside_semconv():
    literal = re.compile(
        r"""["']papyra\.(system|actor|failure|supervision|message|dead_letter|audit|fact|persistence)\."""
    )
    offenders = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "src").rglob("*.py")
        if path.name != "semconv.py" and "testing" not in path.parts
        for line in path.read_text().splitlines()
        if literal.search(line.partition("failed(")[0])  # a failed hook is named after its runtime
        and not line.startswith(("    {", '     "'))  # an example in a docstring
    ]
    assert offenders == []


def test_every_name_that_is_used_is_documented():
    used = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py") if path.name != "semconv.py")
    documented = (ROOT / "docs" / "facts.md").read_text()
    constants = {
        name: value
        for name, value in vars(semconv).items()
        if name.isupper() and value in NAMES and re.search(rf"\b{name}\b", used)
    }
    assert len(constants) > 50
    for value in constants.values():
        covered = value in documented or any(
            value.startswith(p) for p in ("papyra.segment.", "host.", "process.")
        )
        assert covered, f"{value} is not in docs/facts.md"


def test_the_documented_line_is_a_real_one():
    from papyra_otel.log.codec import decode

    text = (ROOT / "docs" / "facts.md").read_text()
    line = re.search(r"^\{\"v\":1.*\}$", text, re.MULTILINE)[0]
    assert decode(line.encode()).seq == 1042


def test_metrics_keys_name_each_attribute_once():
    for metric in COUNTED:
        assert len(set(metric.attributes)) == len(metric.attributes)
