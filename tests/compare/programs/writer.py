# ruff: noqa: T201 - what it prints is what the tests compare
"""Writes records one at a time and prints the number of each once it was acknowledged.

Arguments: who writes (papyra, rotating, ours), the folder, the first number, how many at most, and for
rotating files their size in bytes and how many. Stops early when its stdin closes.
"""

import asyncio
import os
import select
import sys
from pathlib import Path

who, folder, first, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
limits = [int(text) for text in sys.argv[5:]]


def told_to_stop():
    ready, _, _ = select.select([0], [], [], 0)
    return bool(ready) and os.read(0, 1) == b""


async def write_papyra():
    from compare.sides import papyra_event

    if who == "rotating":
        from papyra.persistence.backends.rotating import RotatingFilePersistence

        backend = RotatingFilePersistence(folder / "papyra.ndjson", max_bytes=limits[0], max_files=limits[1])
    else:
        from papyra.persistence.json import JsonFilePersistence

        backend = JsonFilePersistence(folder / "papyra.ndjson")
    print("ready", flush=True)
    for n in range(first, first + count):
        try:
            await backend.record_event(papyra_event(n))
        except OSError as error:  # another process renamed the file meanwhile
            print(type(error).__name__, file=sys.stderr)
        else:
            print(n, flush=True)
        if told_to_stop():
            break
    await backend.aclose()


def write_ours():
    from compare.sides import our_fact
    from papyra_otel.log.file import FileLog

    more = {"segment_bytes_max": limits[0]} if limits else {}
    with FileLog(folder / "facts", **more) as log:
        log.prepare()
        print("ready", flush=True)
        for n in range(first, first + count):
            log.append([our_fact(n)])
            print(n, flush=True)
            if told_to_stop():
                break


if who == "ours":
    write_ours()
else:
    asyncio.run(write_papyra())
