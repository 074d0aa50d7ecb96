"""The report as a Markdown table, and where it stands in the document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compare.attacks import ATTACKS

DOCUMENT = Path(__file__).parents[2] / "docs" / "compare.md"
BEGIN = "<!-- the table: written by nox -s compare -- --write -->"
END = "<!-- end of the table -->"


def render(rows: Mapping[str, tuple[str, str]]) -> str:
    """Return the table of those attacks that have a row."""
    lines = ["| attack: what is counted | papyra 0.3.0 | papyra-otel |", "|---|---|---|"]
    lines += [f"| {ATTACKS[name]} | {' | '.join(rows[name])} |" for name in ATTACKS if name in rows]
    return "\n".join(lines)


def replaced(text: str, table: str) -> str:
    """Return the document's *text* with *table* between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN!r} followed by {END!r}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
