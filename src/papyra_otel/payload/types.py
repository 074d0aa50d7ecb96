"""Reading types and values without running any of their code, and the limits all of this package shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType
from typing import Any, cast

import msgspec

__all__ = [
    "DECIMAL_BITS_MAX",
    "KEY_CHARS_MAX",
    "MISSING",
    "TRUNCATED",
    "UNREADABLE",
    "any_deque",
    "any_dict",
    "any_list",
    "any_tuple",
    "clean_text",
    "declared_in",
    "exact_text",
    "failure_text",
    "instance_dict",
    "is_exactly",
    "is_kind",
    "qualname_of",
    "stored_in",
    "struct_fields_of",
    "type_name",
    "type_of",
]

TRUNCATED = "…(truncated)"
UNREADABLE = "<unreadable>"
KEY_CHARS_MAX = 128
_NAME_CHARS_MAX = 200
DECIMAL_BITS_MAX = 2048  # larger ints are named by their size: Python refuses long ones in decimal

_mro_of: Callable[[Any], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_namespace_of: Callable[[Any], MappingProxyType[str, Any]] = type.__dict__["__dict__"].__get__
qualname_of: Callable[[Any], str] = type.__dict__["__qualname__"].__get__
struct_fields_of: Callable[[Any], tuple[str, ...]] = (
    type(msgspec.Struct).__dict__["__struct_fields__"].__get__
)
MISSING: Any = object()
is_kind: Callable[[Any, Any], bool] = issubclass  # under names that narrow no types
type_of: Callable[[Any], type[Any]] = type
any_dict: Any = dict
any_list: Any = list
any_tuple: Any = tuple
any_deque: Any = deque


def declared_in(cls: type[Any], name: str) -> Any:
    """Return the class attribute *name* as written, without descriptors or metaclasses having a say."""
    for base in _mro_of(cls):
        namespace = _namespace_of(base)
        if name in namespace:
            return namespace[name]
    return None


def instance_dict(value: Any, cls: type[Any]) -> dict[str, Any]:
    """Return the instance dict of *value* without asking *value*; an empty one if it has none."""
    slot = declared_in(cls, "__dict__")
    found: Any = slot.__get__(value) if type(slot) is GetSetDescriptorType else None
    return cast("dict[str, Any]", found) if is_kind(type(found), dict) else {}


def stored_in(value: Any, cls: type[Any], name: str) -> Any:
    """Return what is stored in the slot or the instance dict under *name*, or MISSING; never calls a property."""
    slot = declared_in(cls, name)
    if type_of(slot) is not MemberDescriptorType:
        return any_dict.get(instance_dict(value, cls), name, MISSING)
    try:
        return slot.__get__(value, cls)
    except AttributeError:
        return MISSING


def exact_text(text: str, limit: int | None = None) -> str:
    """Return the first *limit* characters of a str or str subclass as a true str."""
    return str.__getitem__(text, slice(0, limit))


def clean_text(text: str) -> str:
    """Return *text* with lone surrogates escaped visibly."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def type_name(cls: type[Any]) -> str:
    """Return the bounded qualified name, as dashboards group it: without ``builtins.`` and ``__main__.``."""
    name = exact_text(qualname_of(cls), _NAME_CHARS_MAX)
    module = declared_in(cls, "__module__")
    if type_of(module) is not str or module in {"builtins", "__main__"}:
        return clean_text(name)
    return clean_text(f"{module[:_NAME_CHARS_MAX]}.{name}")


def is_exactly(value: Any, *kinds: type) -> bool:
    """Say whether *value* is of exactly one of *kinds*; unlike ``in``, asks no metaclass."""
    cls = type_of(value)
    return any(cls is kind for kind in kinds)


def failure_text(cls: type[Any], what: str, error: Exception) -> str:
    """Return what is shown for an object whose own code raised."""
    return f"<{type_name(cls)}: {what} raised {type_name(type(error))}>"
