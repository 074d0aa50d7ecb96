"""The bounded walk from any object to JSON-safe data."""

from __future__ import annotations

import math
import time
from collections import UserDict, UserList, UserString, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from gc import get_referents
from itertools import islice
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, cast
from uuid import UUID

import msgspec

from papyra_otel.facts import JsonValue
from papyra_otel.payload.redaction import (
    MASK,
    REDACT_AHEAD_CHARS,
    is_secret_key,
    redacted,
    redacted_cut,
)
from papyra_otel.payload.types import (
    DECIMAL_BITS_MAX,
    KEY_CHARS_MAX,
    MISSING,
    TRUNCATED,
    UNREADABLE,
    any_deque,
    any_dict,
    any_list,
    any_tuple,
    clean_text,
    declared_in,
    exact_text,
    failure_text,
    is_exactly,
    is_kind,
    qualname_of,
    stored_in,
    struct_fields_of,
    type_name,
    type_of,
)

__all__ = [
    "Walker",
    "encoded_json",
    "jsonable",
    "more_marker",
    "unique_name",
]

_REPRS_MAX = 64
_REPR_SECONDS_MAX = 0.05
_SET_SORT_MAX = 1000

_clock = time.monotonic


def _record_fields(cls: type[Any]) -> tuple[Iterable[str], frozenset[str]] | None:
    if is_kind(cls, msgspec.Struct):
        return struct_fields_of(cls), frozenset()
    for marker in ("__dataclass_fields__", "__pydantic_fields__", "model_fields"):
        described = declared_in(cls, marker)
        if type(described) is dict:
            return _described_fields(list(cast("dict[str, Any]", described).items()))
    attributes = declared_in(cls, "__attrs_attrs__")
    if is_kind(type(attributes), tuple):
        return _described_fields(
            [(object.__getattribute__(a, "name"), a) for a in any_tuple.__iter__(attributes)]
        )
    return None


def _described_fields(described: list[tuple[str, Any]]) -> tuple[list[str], frozenset[str]]:
    hidden = frozenset(name for name, field in described if stored_in(field, type_of(field), "repr") is False)
    return [name for name, _ in described], hidden


def _named_tuple_fields(cls: type[Any], length: int) -> tuple[str, ...] | None:
    fields = declared_in(cls, "_fields")
    named = (
        is_exactly(fields, tuple)
        and 0 < len(fields) == length
        and all(is_exactly(name, str) for name in fields)
    )
    return fields if named else None


def _decimal_text(value: Decimal) -> str:
    bits = Decimal.__sizeof__(value) * 8
    return Decimal.__str__(value) if bits <= DECIMAL_BITS_MAX * 4 else f"<Decimal of {bits} bits>"


def _enum_text(value: Enum) -> str:
    return f"{qualname_of(type_of(value))}.{stored_in(value, type_of(value), '_name_')}"


_TEXT_TYPES: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (time_of_day, time_of_day.isoformat),
    (timedelta, timedelta.__str__),
    (Decimal, _decimal_text),
    (UUID, UUID.__str__),
    (PurePath, PurePath.__str__),
    (Enum, _enum_text),
)
_VIEWS = tuple(map(type_of, (any_dict().keys(), any_dict().values(), any_dict().items())))
_WRAPPERS = (UserDict, UserList, UserString)
_BYTES_LIKE = (bytes, bytearray, memoryview)

# A pair of fields of which the first tells what the second holds: {"name": "password", "value": …}.
_NAMING_FIELDS = frozenset({"name", "key", "field", "header", "attr_path", "attr_name"})
_NAMED_FIELDS = frozenset({"value", "args", "kwargs"})


def _names_secret(name: Any) -> bool:
    """Say whether a value is itself a secret-looking name: text, bytes, or a path of names ending in one."""
    if is_exactly(name, tuple, list) and name:
        name = name[-1]
    if type(name) is bytes:
        name = name[:KEY_CHARS_MAX].decode("latin-1")
    return type(name) is str and len(name) <= KEY_CHARS_MAX and is_secret_key(name)


class Walker:
    """Reads one value within limits; numbers left are shared by the whole walk."""

    __slots__ = (
        "_chars",
        "_deadline",
        "_depth_max",
        "_items_max",
        "_nodes",
        "_path",
        "_redact",
        "_reprs",
        "_text_max",
        "more",
    )

    def __init__(
        self, *, redact: bool, depth_max: int, items_max: int, nodes_max: int, text_max: int, chars_max: int
    ) -> None:
        self._redact = redact
        self._depth_max = depth_max
        self._items_max = items_max
        self._nodes = nodes_max
        self._text_max = text_max
        self._chars = chars_max
        self._reprs = _REPRS_MAX
        self._deadline = 0.0
        self._path: set[int] = set()
        self.more: dict[
            int, int
        ] = {}  # id of a container made here → how many items its last element stands for

    def read(self, value: Any) -> JsonValue:
        """Return *value* as JSON-safe data."""
        cls = type_of(value)
        if value is None or cls is bool:
            return value
        if cls is str:
            return self.text(value)
        try:
            return self._read_guarded(value, cls)
        except Exception as error:
            return failure_text(cls, "reading", error)

    def _read_guarded(self, value: Any, cls: type[Any]) -> JsonValue:
        if is_kind(cls, int):
            return _int(value)
        if is_kind(cls, float):
            return _float(value)
        if is_kind(cls, str):
            return self.text(value)
        if is_kind(cls, _BYTES_LIKE):
            return self._bytes(value, cls)
        for kind, text_of in _TEXT_TYPES:
            if is_kind(cls, kind):
                return self.text(text_of(value))
        return self._nested(value, cls)

    def _nested(self, value: Any, cls: type[Any]) -> JsonValue:
        if id(value) in self._path:
            return "<cycle>"
        if len(self._path) >= self._depth_max:
            return f"<{type_name(cls)}: too deep>"
        self._path.add(id(value))
        try:
            return self._container(value, cls)
        finally:
            self._path.discard(id(value))

    def _container(self, value: Any, cls: type[Any]) -> JsonValue:
        if is_kind(cls, dict):
            return self._pairs(islice(any_dict.items(value), self._allowed()), any_dict.__len__(value))
        if is_kind(cls, list):
            return self._items(any_list.__getitem__(value, slice(self._allowed())), any_list.__len__(value))
        if is_kind(cls, tuple):
            return self._tuple(value, cls)
        if is_kind(cls, (set, frozenset)):
            return self._set(value, set if is_kind(cls, set) else frozenset)
        if is_kind(cls, deque):
            return self._items(
                list(islice(any_deque.__iter__(value), self._allowed())), any_deque.__len__(value)
            )
        return self._object(value, cls)

    def _object(self, value: Any, cls: type[Any]) -> JsonValue:
        if is_kind(cls, BaseException):
            from papyra_otel.payload.failures import error_text  # noqa: PLC0415 - its arguments are payloads in turn

            return {
                "type": type_name(cls),
                "message": self.text(error_text(value, "redacted" if self._redact else "full")),
            }
        if cls is MappingProxyType:
            return self.read(get_referents(value)[0])
        if is_exactly(value, *_VIEWS):
            return self._items(list(islice(value, self._allowed())), len(value))
        if is_kind(cls, _WRAPPERS):
            return self.read(stored_in(value, cls, "data"))
        fields = _record_fields(cls)
        return self._opaque(value, cls) if fields is None else self._record(value, cls, *fields)

    # --- texts ----------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Return *text* redacted, cut and encodable."""
        limit = min(self._text_max, self._chars)
        shown = self._short_text(text, limit)
        self._chars -= min(len(shown), limit)
        return shown

    def _short_text(self, text: str, limit: int) -> str:
        length = str.__len__(text)
        if not self._redact:
            shown = exact_text(text, limit)
        elif length <= limit + REDACT_AHEAD_CHARS:
            shown = redacted(exact_text(text))
        else:
            shown = redacted_cut(exact_text(text, limit + REDACT_AHEAD_CHARS))
        cut = len(shown) > limit or (length > limit + REDACT_AHEAD_CHARS if self._redact else length > limit)
        return clean_text(shown[:limit]) + TRUNCATED if cut else clean_text(shown)

    def _bytes(self, value: Any, cls: type[Any]) -> str:
        size, head = _bytes_head(value, cls, min(self._text_max, self._chars))
        if len(head) == size:
            return self.text(repr(head))
        shown = repr(head)[:-1]
        shown = redacted_cut(shown) if self._redact else shown
        return self.text(f"{shown}'…(+{size - len(head)} bytes)")

    def _opaque(self, value: Any, cls: type[Any]) -> str:
        if not self._may_run_code():
            return f"<{type_name(cls)}>"
        try:
            return self.text(repr(value))
        except Exception as error:
            return failure_text(cls, "repr", error)

    def _may_run_code(self) -> bool:
        now = _clock()
        self._deadline = self._deadline or now + _REPR_SECONDS_MAX
        self._reprs -= 1
        return self._reprs >= 0 and now <= self._deadline

    # --- containers -----------------------------------------------------------------------------

    def _allowed(self) -> int:
        return max(0, min(self._items_max, self._nodes))

    def _items(self, items: Sequence[Any], total: int) -> list[JsonValue]:
        """Return what is read from *items*, the first of *total*."""
        self._nodes -= len(items)
        if self._redact and total == len(items) == 2 and _names_secret(items[0]):  # noqa: PLR2004
            return [self.read(items[0]), MASK]
        return self._closed([self.read(item) for item in items], total - len(items))

    def _closed(self, result: list[JsonValue], hidden: int) -> list[JsonValue]:
        if hidden > 0:
            result.append(more_marker(hidden))
            self.more[id(result)] = hidden
        return result

    def _tuple(self, value: Any, cls: type[Any]) -> JsonValue:
        total = any_tuple.__len__(value)
        items = any_tuple.__getitem__(value, slice(self._allowed()))
        names = None if cls is tuple else _named_tuple_fields(cls, total)
        return (
            self._items(items, total)
            if names is None
            else self._pairs(zip(names, items, strict=False), total)
        )

    def _set(self, value: Any, base: Any) -> JsonValue:
        """Return the items in the order of their texts; of more than 1000, which ones are shown is arbitrary."""
        seen: list[Any] = list(islice(base.__iter__(value), _SET_SORT_MAX))
        kinds = {id(type_of(item)) for item in seen}
        if len(kinds) == 1 and is_exactly(seen[0], str, int, float, bytes):
            seen.sort()
        read = self._items(seen[: self._allowed()], base.__len__(value))
        last = [read.pop()] if id(read) in self.more else []
        read.sort(key=encoded_json)
        read += last
        return read

    def _pairs(
        self, pairs: Iterable[tuple[Any, Any]], total: int, hidden: frozenset[str] = frozenset()
    ) -> JsonValue:
        """Return a dict of *pairs*, at most as many as allowed, of *total*. Values of *hidden* names are masked."""
        given = list(pairs)
        self._nodes -= len(given)
        named = self._redact and _names_secret_value(given)
        result: dict[str, JsonValue] = {}
        for key, value in given:
            text = key if type(key) is str else self._key_text(key)
            secret = self._redact and (
                is_secret_key(text) or text in hidden or (named and text in _NAMED_FIELDS)
            )
            result[unique_name(self._key_name(text), result)] = MASK if secret else self.read(value)
        if total > len(given):
            result[unique_name("…", result)] = f"(+{total - len(given)} more)"
            self.more[id(result)] = total - len(given)
        return result

    def _key_text(self, key: Any) -> str:
        """Return the text of a key that is no str: its value's own, or the JSON of it."""
        if is_kind(type(key), str):
            return exact_text(key)
        read = self.read(key)
        return read if type(read) is str else encoded_json(read).decode()

    def _key_name(self, text: str) -> str:
        if len(text) <= KEY_CHARS_MAX and (not self._redact or text.isidentifier()):
            return clean_text(text)
        return self._short_text(text, KEY_CHARS_MAX)

    def _record(self, value: Any, cls: type[Any], names: Iterable[str], unshown: frozenset[str]) -> JsonValue:
        allowed = self._allowed()
        stored = [(name, stored_in(value, cls, name)) for name in islice(names, allowed + 1)]
        extra = stored_in(value, cls, "__pydantic_extra__")
        if type(extra) is dict:
            stored += islice(cast("dict[str, Any]", extra).items(), allowed)
        present = [pair for pair in stored if pair[1] is not MISSING]
        return self._pairs(present[:allowed], len(present), unshown)


def _int(value: Any) -> JsonValue:
    if -(2**63) <= (number := int.__pos__(value)) < 2**63:
        return number
    bits = number.bit_length()
    return str(number) if bits <= DECIMAL_BITS_MAX else f"<int of {bits} bits>"


def _float(value: Any) -> JsonValue:
    number = float.__pos__(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _bytes_head(value: Any, cls: type[Any], limit: int) -> tuple[int, bytes]:
    """Return the size in bytes and the first *limit* bytes."""
    if cls is memoryview:
        flat = value.ndim == 1 and value.contiguous
        return value.nbytes, value.cast("B")[:limit].tobytes() if flat and value.nbytes else b""
    base: Any = bytes if is_kind(cls, bytes) else bytearray
    return base.__len__(value), bytes(base.__getitem__(value, slice(limit)))


def _names_secret_value(pairs: list[tuple[Any, Any]]) -> bool:
    keys = [key for key, _ in pairs if type(key) is str]
    if _NAMED_FIELDS.isdisjoint(keys):
        return False
    return any(type(key) is str and key in _NAMING_FIELDS and _names_secret(value) for key, value in pairs)


def unique_name(name: str, taken: dict[str, JsonValue]) -> str:
    """Return *name*, numbered if it is *taken*."""
    if name not in taken:
        return name
    number = len(taken) + 1
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"


def more_marker(count: int) -> str:
    """Return what stands for *count* items left out."""
    return f"…(+{count} more)"


encoded_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def jsonable(
    value: object,
    *,
    redact: bool = False,
    max_depth: int = 32,
    max_items: int = 1000,
    max_nodes: int = 10_000,
    max_text_chars: int = 262_144,
    max_total_chars: int = 524_288,
) -> JsonValue:
    """Return *value* as None, bool, int of 64 bits, finite float, str that is valid UTF-8, or lists and dicts of these.

    Limits: *max_depth* nested containers, *max_items* in one, *max_nodes* in all, *max_text_chars* characters in
    one text, *max_total_chars* in all texts and 128 in a key. What is left out says so in its place. With
    *redact*, secrets are
    masked. Never raises, and never changes *value*.
    """
    try:
        return Walker(
            redact=redact, depth_max=max_depth, items_max=max_items, nodes_max=max_nodes,
            text_max=max_text_chars, chars_max=max_total_chars,
        ).read(value)  # fmt: skip
    except Exception:  # no stack left, even for saying so
        return UNREADABLE
