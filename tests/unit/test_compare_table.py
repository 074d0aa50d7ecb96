"""The table of attacks in the documents has a row for every attack, and no other."""

from __future__ import annotations

import pytest

from compare.attacks import ATTACKS
from compare.table import BEGIN, DOCUMENT, END, render, replaced


def test_every_attack_has_its_row_with_figures_for_both_sides():
    table = DOCUMENT.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == list(ATTACKS.values())
    assert [row for row in rows[2:] if len(row) != 3 or not all(row)] == []


def test_a_written_table_replaces_the_one_before_and_nothing_else():
    table = render({"os_exit": ("3 of 9", "9 of 9")})
    once = replaced(f"before\n{BEGIN}\nold\n{END}\nafter\n", table)
    assert once == f"before\n{BEGIN}\n\n{table}\n\n{END}\nafter\n"
    assert replaced(once, table) == once
    assert table.splitlines()[2:] == [f"| {ATTACKS['os_exit']} | 3 of 9 | 9 of 9 |"]


def test_a_document_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="has no"):
        replaced(f"{END} {BEGIN}", "")
