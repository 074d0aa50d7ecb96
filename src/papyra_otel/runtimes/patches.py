"""Replacing methods of somebody else's class, and putting every one of them back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Patches", "own"]


class Patches:
    """A set of replaced attributes. Not thread-safe: install and undo from one thread.

    An attribute that does not exist is not replaced but noted in *missing*: what depends on it is
    then not supported, which is said, never guessed.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._undo: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
        """Replace function *name* in the class or module *owner* by ``make(original)``; say whether it was there.

        Class and static methods stay what they are. Name, docstring and signature are kept.
        """
        raw = own(owner, name)
        if raw is None:
            self.missing.append(f"{getattr(owner, '__name__', owner)}.{name}")
            return False
        binding = _binding_of(raw)
        original: Callable[..., Any] = raw if binding is None else raw.__func__
        wrapper = functools.wraps(original)(make(original))
        installed: Any = wrapper if binding is None else binding(wrapper)
        setattr(owner, name, installed)
        self._undo.append((owner, name, raw, installed))
        return True

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> bool:
        """Replace attribute *name* of *owner*, whatever it is, by ``make(original)`` as it comes; say as ``wrap``."""
        raw = own(owner, name)
        if raw is None:
            self.missing.append(f"{getattr(owner, '__name__', owner)}.{name}")
            return False
        installed = make(raw)
        setattr(owner, name, installed)
        self._undo.append((owner, name, raw, installed))
        return True

    def undo(self) -> None:
        """Put back what is still ours. Where somebody wrapped our wrapper, theirs stays and ours lies idle."""
        while self._undo:
            owner, name, raw, installed = self._undo.pop()
            if own(owner, name) is installed:
                setattr(owner, name, raw)
        self.missing.clear()


def _binding_of(raw: object) -> Callable[[Any], Any] | None:
    """Return ``classmethod`` or ``staticmethod`` if *raw* is one, or None."""
    for binding in (classmethod, staticmethod):
        if type(raw) is binding:
            return binding
    return None


def own(owner: Any, name: str) -> Any:
    """Return what *owner* itself, not a class above it, holds under *name*, or None."""
    held: Mapping[str, Any] = owner.__dict__
    return held.get(name)
