"""What compacting is for every backend: when not to trust the clock, and the fact that says what is removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from papyra_otel import semconv
from papyra_otel.errors import CompactionRefused, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.merge import Expired, Source
from papyra_otel.log.retention import KindRetention, Retention
from papyra_otel.log.times import format_time

__all__ = ["compacted_facts", "refuse_wrong_clock"]

_NANOS = 1_000_000_000
_HOLE_SECONDS_MIN = 3600  # shorter times without facts are ordinary, however short facts are kept
_TEXTS_MAX = 5000  # per fact: about 350 KB, well within a line
_SHOWN_CHARS_MAX = 100


def refuse_wrong_clock(
    sources: Sequence[Source],
    retention: Retention,
    now_unix_nano: int,
) -> None:
    """Raise CompactionRefused if the age limit would remove most of a stream and the clock may be why.

    That is: more than half of the facts of a stream are too old, and between the last that is too old and the
    next one of any kind in its system (or now, if there is none) there is more than half the age limit, and more
    than an hour. So it looks when the clock jumps ahead; where facts were recorded all the time, it does
    not. A clock that is behind removes too little, never too much. *sources* are all of one system.
    """
    for kind in FactKind:
        limits = retention.of(kind)
        oldest = limits.oldest_unix_nano(now_unix_nano)
        own = [source for source in sources if source.kind is kind]
        if oldest is None or not own:
            continue
        try:
            found = [source.expired(oldest) for source in own]
        except LogTooNew:  # nothing of such a stream is removed
            continue
        records = sum(each.records for each in found)
        total = sum(source.totals()[0] for source in own)
        if 2 * records <= total:
            continue
        hole = _hole([*found], now_unix_nano)
        if _is_long(hole, limits):
            others = [source for source in sources if source.kind is not kind]
            hole = _hole([*found, *_readable(others, oldest)], now_unix_nano)
        if _is_long(hole, limits):
            begin, end = hole
            until = "now" if end == now_unix_nano else format_time(end)
            raise CompactionRefused(
                f"{own[0].system[:_SHOWN_CHARS_MAX]}/{kind.plural}: the age limit of {limits.max_age_seconds:g} s "
                f"would remove {records} of {total} facts, but nothing was recorded from {format_time(begin)} "
                f"until {until}: the clock may have jumped (now it says {format_time(now_unix_nano)}). "
                f"Nothing was changed. If the clock is right, compact with force=True (--force)"
            )


def _readable(sources: Iterable[Source], oldest: int) -> Iterator[Expired]:
    for source in sources:
        with contextlib.suppress(LogTooNew):
            yield source.expired(oldest)


def _hole(found: Sequence[Expired], now: int) -> tuple[int, int]:
    """Return the time without facts around the age limit: from the latest too old to the earliest that is not."""
    begin = max(each.latest_unix_nano for each in found if each.latest_unix_nano is not None)
    end = min((each.next_unix_nano for each in found if each.next_unix_nano is not None), default=now)
    return begin, min(end, now)


def _is_long(hole: tuple[int, int], limits: KindRetention) -> bool:
    allowed_seconds = max((limits.max_age_seconds or 0) / 2, _HOLE_SECONDS_MIN)
    return hole[1] - hole[0] > allowed_seconds * _NANOS


def compacted_facts(
    system: str,
    now_unix_nano: int,
    *,
    low_marks: Iterable[str],
    explained: Iterable[str],
    records: int,
    size_bytes: int,
) -> list[Fact]:
    """Return the facts, one or more, that say what is about to be removed of *system*.

    *low_marks* are ``<writer>-<kind>-<seq>``: everything of that writer and kind below seq is removed, or may be.
    *explained* are ``<writer>-<kind>-<first>..<last>``: what is missing for a reason that was told by a fact that
    is now removed itself. *records* and *size_bytes* are in the first only.
    """
    marks, ranges = list(low_marks), list(explained)
    facts: list[Fact] = []
    amounts: dict[str, object] = {
        semconv.COMPACTION_RECORDS: records,
        semconv.COMPACTION_BYTES: size_bytes,
    }
    while not facts or marks or ranges:
        some, marks = marks[:_TEXTS_MAX], marks[_TEXTS_MAX:]
        room = _TEXTS_MAX - len(some)
        some_ranges, ranges = ranges[:room], ranges[room:]
        facts.append(
            Fact(
                kind=FactKind.EVENT,
                name=semconv.LOG_COMPACTED,
                time_unix_nano=now_unix_nano,
                system=system,
                attributes={
                    **(amounts if not facts else {}),
                    semconv.COMPACTION_LOW_MARKS: some,
                    **({semconv.COMPACTION_EXPLAINED: some_ranges} if some_ranges else {}),
                },
            )
        )
    return facts
