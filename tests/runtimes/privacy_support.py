"""What the tests of privacy and of cardinality share: marks to look for in a log, and how many types were counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import papyra_otel
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters

TYPES = 1000
RAISED = {(s.ACTOR_EXCEPTION, s.EXCEPTION_MESSAGE), (s.ACTOR_EXCEPTION, s.EXCEPTION_STACKTRACE)}
IN_LETTER = {(s.DEAD_LETTER_CAPTURED, s.MESSAGE_PAYLOAD)}
NOWHERE: set[tuple[str, str]] = set()

DOCUMENTED = {
    "handled": NOWHERE,
    "argument": NOWHERE,
    "local": NOWHERE,
    "password": NOWHERE,
    "raised": RAISED,
    "letter": IN_LETTER,
}
"""Where docs/runtimes.md says that the parts of a program's messages are."""


def mark(what: str) -> str:
    """Return a word that is in no line of source, so that no traceback shows it for that."""
    return f"swordfish-{what}"


def places(folder: Path, marks: Iterable[str]) -> dict[str, set[tuple[str, str]]]:
    """Return in which attributes of which facts of the log in *folder* each mark is, and that its bytes agree."""
    facts = [entry.fact for entry in papyra_otel.open_log(f"file://{folder}").read()]
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert facts
    found = {}
    for what in marks:
        found[what] = {
            (fact.name, name)
            for fact in facts
            for name, value in fact.attributes.items()
            if mark(what) in str(value)
        }
        assert (mark(what).encode() in stored) == bool(found[what]), what
    return found


def assert_capped(counters: Counters, metric: str, *, taken: int = 0) -> None:
    """Assert that *metric* counted one of each type: as many as are allowed by name, and the rest as others.

    *taken*: how many types that this metric does not count had come before.
    """
    allowed = s.ACTOR_TYPES_MAX - taken
    by_type: Counter[str] = Counter()
    for key, count in counters.read(metric):
        by_type[key[1]] += count
    assert len(by_type) == allowed + 1
    assert sum(by_type.values()) == TYPES
    assert by_type[s.OTHER] == TYPES - allowed
    assert counters.total(s.ATTRIBUTE_OVERFLOW) > 0
