"""What JSON and UTF-8 hold of a value as it is, and what stands for the rest: replaced or cut, and said so."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import msgspec

from papyra_otel import semconv
from papyra_otel.payload import jsonable

__all__ = ["ATTRIBUTES_MAX", "NAME_CHARS_MAX", "cut_to_size", "plain", "replaced_in", "type_of"]

NAME_CHARS_MAX: Final = 4096
ATTRIBUTES_MAX: Final = 512
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

type_of: Callable[[object], type[Any]] = type  # typed so that checkers take any object's type as it is
_encoder = msgspec.json.Encoder()


def plain(attributes: Mapping[str, Any]) -> bool:
    """Say whether every value is one that JSON holds faithfully. Runs for each fact: keep it cheap."""
    mapping: object = type(attributes)
    if mapping is not dict:
        return False
    for name, value in attributes.items():
        kind = type_of(value)
        if type(name) is not str:
            return False
        if kind is str or kind is bool or value is None:
            continue
        if kind is int:
            if not _INT64_MIN <= value <= _INT64_MAX:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is not list or not all(type(item) is str for item in value):
            return False
    return True


def replaced_in(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return *attributes* with what JSON cannot hold replaced, and the names of those listed."""
    try:
        items = list(attributes.items())
    except Exception:  # a mapping of the application's own making
        return {semconv.FACT_ENC_ERROR: ["all attributes"]}
    given_names = {name for name, _ in items if type(name) is str}
    result: dict[str, Any] = {}
    replaced: list[str] = []
    for name, value in items:
        text = (
            name if type(name) is str and _kept(name) else free_name(str(jsonable(name)), result, given_names)
        )
        result[text], same = _replacement(value)
        if text is not name or not same:
            replaced.append(text[:NAME_CHARS_MAX])
    if replaced:
        result[semconv.FACT_ENC_ERROR] = replaced[:ATTRIBUTES_MAX]
    return result


def _replacement(value: Any) -> tuple[Any, bool]:
    """Return what stands for *value*, and whether it says the same."""
    kind = type_of(value)
    given: Any = [*value] if kind is tuple else value
    if _kept(given):
        return given, True
    shown = jsonable(given)
    try:
        return shown, _same(shown, given)
    except Exception:  # keys with a mind of their own
        return shown, False


def _kept(value: Any) -> bool:
    """Say whether JSON and UTF-8 hold *value* as it is."""
    try:
        return plain({"": value}) and bool(_encoder.encode(value))
    except UnicodeEncodeError:
        return False


def free_name(name: str, *taken: Container[str]) -> str:
    """Return *name*, or one like it that is in none of *taken*."""
    free, number = name, 1
    while any(free in names for names in taken):
        number += 1
        free = f"{name}#{number}"
    return free


def _same(left: Any, right: Any) -> bool:
    """Say whether *right* came through unchanged. Compares exact types only: no foreign code runs."""
    kind = type_of(left)
    if kind is not type(right):
        return False
    if kind is list:
        return len(left) == len(right) and all(map(_same, left, right))
    if kind is dict:
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right)


def cut_to_size(
    given: Mapping[str, Any], chars_max: int, room_bytes: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the attributes, the largest cut to *chars_max* until all need at most *room_bytes*, and which were.

    If that is not enough, all are cut.
    """
    sizes = {name: len(_encoder.encode({name: value})) for name, value in given.items()}
    total = sum(sizes.values())
    short: dict[str, tuple[str, Any]] = {}
    listed: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= room_bytes:
            break
        value = given[name]
        text = value if type(value) is str else _encoder.encode(value).decode()
        new_value = value if len(text) <= chars_max else text[:chars_max] + "…(truncated)"
        new_name = name if len(name) <= chars_max else name[:chars_max] + "…"
        if new_value is value and new_name is name:
            continue
        short[name] = new_name, new_value
        listed.append(new_name)
        total += (
            len(_encoder.encode({new_name: new_value})) - sizes[name] + len(_encoder.encode(new_name)) + 1
        )
    attributes: dict[str, Any] = {}
    for name, value in given.items():
        new_name, new_value = short.get(name, (name, value))
        attributes[free_name(new_name, attributes)] = new_value
    return attributes, listed
