"""Reading on: what is there, then what is new as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from papyra_otel.facts import Entry
from papyra_otel.log.merge import Query

__all__ = ["POLL_SECONDS", "followed"]

POLL_SECONDS = 0.5


def followed(
    read: Callable[[str | None], Iterator[Entry]],
    query: Query,
    after: str | None,
    pause: Callable[[], bool],
) -> Iterator[Entry]:
    """Yield what matches *query* of what *read* gives past a cursor, again and again, for as long as *pause* is True.

    *read* gives what does not match, too, so that the cursor moves past it.
    """
    while True:
        last: Entry | None = None
        for last in read(after):
            if query.matches(last.fact):
                yield last
        if last is not None:
            after = last.cursor
        if not pause():
            return
