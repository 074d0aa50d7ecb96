"""A system's name where not every name is allowed: as a folder, and in a key's hash tag."""

from __future__ import annotations

import hashlib
from urllib.parse import quote, unquote

__all__ = ["folder_of_system", "is_whole_name", "system_of_folder"]

_NAME_CHARS_MAX = 200


def folder_of_system(system: str) -> str:
    """Return the folder name of *system*: itself where that is safe, percent-encoded where not."""
    name = quote(system, safe="", errors="backslashreplace").replace("~", "%7E") or "%"
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= _NAME_CHARS_MAX:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name[:_NAME_CHARS_MAX].rpartition('%')[0] or name[:_NAME_CHARS_MAX]}~{digest}"


def system_of_folder(folder: str) -> str:
    """Return the system that *folder* belongs to; for a very long name, its beginning."""
    return "" if folder == "%" else unquote(folder.partition("~")[0])


def is_whole_name(folder: str) -> bool:
    """Say whether *folder* holds the system's whole name, not only its beginning."""
    return "~" not in folder
