"""Plain values as YAML that people read: the little that rules and provisioning need.

Not a library's work: the wheel would need one only for this, and the libraries fold long expressions so that nobody
can read them. A test reads every file back with one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["as_yaml"]

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_MEANT_OTHERWISE = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def as_yaml(value: Mapping[str, Any], comment: str = "") -> str:
    """Return *value* (mappings, sequences, texts, numbers, truth values) as YAML below *comment*."""
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *_mapping(value, 0)]) + "\n"


def _mapping(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, inner in value.items():
        yield from _member(f"{' ' * depth}{_scalar(name)}:", inner, depth)


def _member(start: str, inner: Any, depth: int) -> Iterator[str]:
    if isinstance(inner, Mapping) and inner:
        yield start
        yield from _mapping(inner, depth + 2)  # pyright: ignore[reportUnknownArgumentType] - checked one line above
    elif isinstance(inner, Sequence) and not isinstance(inner, str) and inner:
        yield start
        yield from _sequence(inner, depth + 2)  # pyright: ignore[reportUnknownArgumentType] - same
    elif isinstance(inner, str) and "\n" in inner:
        yield f"{start} |-"
        for line in inner.split("\n"):
            yield f"{' ' * (depth + 2)}{line}".rstrip()
    else:
        yield f"{start} {_scalar(inner)}"


def _sequence(value: Sequence[Any], depth: int) -> Iterator[str]:
    for inner in value:
        if isinstance(inner, Mapping):
            first, *rest = _mapping(inner, depth + 2)  # pyright: ignore[reportUnknownArgumentType] - same
            yield f"{' ' * depth}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{' ' * depth}- {_scalar(inner)}"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _MEANT_OTHERWISE
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
