"""What is done atomically on the server: one Lua script in each file, run by its digest, sent where it is missing."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from papyra_otel.log.redis.wire import Command, Reply, Wire

__all__ = ["Script", "load", "run"]

_FOLDER = Path(__file__).parent


class Script(NamedTuple):
    """A script's text and the digest that the server knows it by."""

    text: bytes
    digest: str


@lru_cache(maxsize=32)
def load(name: str) -> Script:
    """Return the script called *name*."""
    text = (_FOLDER / f"{name}.lua").read_bytes()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


def run(
    wire: Wire, name: str, keys: list[str], arguments: list[Any], *behind: Command
) -> tuple[Reply, list[Reply]]:
    """Run a script, then the commands *behind* it on the same connection; return its reply and theirs.

    Errors that the server answered are returned, not raised. Raises LogUnavailable as ``Wire.send``.
    """
    script = load(name)
    rest = (len(keys), *keys, *arguments)
    replies = wire.send(keys[0], [("EVALSHA", script.digest, *rest), *behind])
    if isinstance(replies[0], NoScriptError):  # a new server, a failover, SCRIPT FLUSH
        replies = wire.send(keys[0], [("EVAL", script.text, *rest), *behind])
    return replies[0], replies[1:]
