"""Payload text: a walk, fitted into a number of bytes from the inside, so that it stays valid JSON."""

from __future__ import annotations

from bisect import bisect_right

from papyra_otel.facts import JsonValue
from papyra_otel.payload.reading import (
    Walker,
    encoded_json,
    more_marker,
    unique_name,
)
from papyra_otel.payload.types import (
    TRUNCATED,
    UNREADABLE,
    is_exactly,
)

__all__ = [
    "payload_text",
]

_TRUNCATED_BYTES = 16  # as JSON: the least room any value can be fitted into

_MARKER_BYTES = 40  # room for a "…(+N more)" of its own
_SHARE_BYTES_MIN = 24  # a value gets at least this, or is not shown at all


def payload_text(value: object, *, mode: str = "redacted", limit_bytes: int = 2048) -> str | None:
    """Return *value* as JSON text of at most *limit_bytes* bytes of UTF-8, or None when *mode* is ``none``.

    Mode ``full`` shows everything; ``redacted``, and any mode not known, masks secrets. Too large a value is
    shortened from the inside, the large parts first, and says where: it stays valid JSON. Nesting ends after 32
    containers, a key after 128 characters, and at most 64 objects are asked for their repr. Under 2 bytes no JSON
    text fits: None. Never raises.
    """
    if mode == "none" or limit_bytes < len('""'):
        return None
    try:
        return _fitted_text(value, mode != "full", limit_bytes)
    except Exception:  # no stack left, even for saying so
        return '""' if limit_bytes < len(UNREADABLE) + 2 else f'"{UNREADABLE}"'


def _fitted_text(value: object, redact: bool, limit: int) -> str:
    walker = Walker(
        redact=redact,
        depth_max=32,
        items_max=limit // 2,
        nodes_max=2 * limit,
        text_max=limit,
        chars_max=8 * limit,
    )
    read = walker.read(value)
    encoded = encoded_json(read)
    if len(encoded) <= limit:
        return encoded.decode()
    if limit < _TRUNCATED_BYTES:
        return '"…"' if limit >= len('"…"'.encode()) else '""'
    return encoded_json(_fitted(read, limit, walker.more)).decode()


def _size(value: JsonValue) -> int:
    return len(encoded_json(value))


def _fitted(value: JsonValue, room: int, more: dict[int, int]) -> JsonValue:
    """Return *value* shortened so that its JSON has at most *room* bytes (16 or more)."""
    if _size(value) <= room:
        return value
    if type(value) is str:
        return _fitted_str(value, room)
    if is_exactly(value, list) and room > _MARKER_BYTES:
        return _fitted_list(value, room, more)
    if is_exactly(value, dict) and room > _MARKER_BYTES:
        return _fitted_dict(value, room, more)
    return TRUNCATED


def _fitted_str(text: str, room: int) -> str:
    body = text.removesuffix(TRUNCATED)
    keep = bisect_right(range(len(body)), room, key=lambda count: _size(body[:count] + TRUNCATED))
    return body[: max(0, keep - 1)] + TRUNCATED


def _fitted_list(items: list[JsonValue], room: int, more: dict[int, int]) -> list[JsonValue]:
    hidden = more.get(id(items), 0)
    real = items[:-1] if hidden else items
    kept, share = _shares([1] * len(real), [_size(item) for item in real], room - _MARKER_BYTES)
    fitted = [_fitted(item, share, more) for item in real[:kept]]
    hidden += len(real) - kept
    return [*fitted, more_marker(hidden)] if hidden else fitted


def _fitted_dict(members: dict[str, JsonValue], room: int, more: dict[int, int]) -> dict[str, JsonValue]:
    hidden = more.get(id(members), 0)
    real = list(members.items())[:-1] if hidden else list(members.items())
    names = [_size(name) + 2 for name, _ in real]
    kept, share = _shares(names, [_size(value) for _, value in real], room - _MARKER_BYTES)
    fitted = {name: _fitted(value, share, more) for name, value in real[:kept]}
    hidden += len(real) - kept
    if hidden:
        fitted[unique_name("…", fitted)] = f"(+{hidden} more)"
    return fitted


def _shares(overheads: list[int], sizes: list[int], room: int) -> tuple[int, int]:
    """Return how many values of *sizes* bytes are shown, and the most bytes that one may take.

    Small values are left whole; what they leave is divided among the large ones.
    """
    kept = used = 0
    for overhead, size in zip(overheads, sizes, strict=True):
        used += overhead + min(size, _SHARE_BYTES_MIN)
        if used > room:
            break
        kept += 1
    left = room - sum(overheads[:kept])
    for waiting, size in zip(range(kept, 0, -1), sorted(sizes[:kept]), strict=True):
        if size > left // waiting:
            return kept, left // waiting
        left -= size
    return kept, room
