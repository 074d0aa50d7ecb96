# ruff: noqa: T201 - what it prints is what the tests compare
"""A small actor system under one attack, recorded by papyra itself or by us.

Arguments: who records (papyra, ours), the folder or the URL of a Redis, the attack, and how many actors. Prints how
much of the program's own work was done: asks that were answered.
"""

import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

import anyio
from papyra import Actor, ActorSystem
from papyra.persistence.backends.retention import RetentionPolicy
from papyra.persistence.json import JsonFilePersistence

sys.dont_write_bytecode = True  # with files of 16 KiB at most it would leave broken ones
who, place, attack, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
FILE_BYTES_MAX = 16_384
HOUR_SECONDS = 3600


class Echo(Actor):
    async def receive(self, message):
        if isinstance(message, anyio.Event):
            await message.wait()
        return message


def persistence():
    """papyra's own, or nothing: then we record from outside."""
    if who == "papyra" and place.startswith("redis:"):
        from papyra.persistence.backends.redis import RedisStreamsConfig, RedisStreamsPersistence

        return {"persistence": RedisStreamsPersistence(RedisStreamsConfig(url=place, system_id="shop"))}
    if who == "papyra":
        retention = RetentionPolicy(max_age_seconds=HOUR_SECONDS) if attack == "age" else None
        return {"persistence": JsonFilePersistence(Path(place) / "papyra.ndjson", retention_policy=retention)}
    import papyra_otel

    url = place if place.startswith("redis:") else f"file://{place}/facts"
    papyra_otel.enable(url, runtimes=("papyra",), audit_interval="1h", messages="off")
    return {}


async def settled():
    """Let everything that can run do so, with time for what runs in threads."""
    for _ in range(20):
        await anyio.to_thread.run_sync(lambda: None)


async def ask_all(system, answered, actors):
    for n in range(actors):
        ref = system.spawn(Echo, name=f"echo-{n}")
        assert await ref.ask(n) == n
        answered.append(n)
        if attack not in {"exit", "kill"}:
            await settled()  # recording goes on beside: what it does to the program shows as it happens


async def disk_full(system, answered):
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    await ask_all(system, answered, count)


async def odd_payload(system, answered):
    ref = system.spawn(Echo, name="gone")
    await settled()
    await system.stop(ref)
    await settled()
    odd = []
    odd.append(odd)
    with contextlib.suppress(Exception):
        await ref.tell(odd)
    await settled()
    await ask_all(system, answered, count)


async def left_behind(system, answered):
    ref, gate = system.spawn(Echo, name="busy"), anyio.Event()
    await ref.tell(gate)
    await anyio.wait_all_tasks_blocked()
    for n in range(count):
        await ref.tell(n)
    return gate


async def open_later(gate):
    await anyio.wait_all_tasks_blocked()
    gate.set()


async def live(answered):
    """The attack's life of one system."""
    async with anyio.create_task_group() as group, ActorSystem(system_id="shop", **persistence()) as system:
        if attack == "disk_full":
            await disk_full(system, answered)
        elif attack == "odd_payload":
            await odd_payload(system, answered)
        elif attack == "left":
            group.start_soon(open_later, await left_behind(system, answered))
        elif attack == "late":
            ref = system.spawn(Echo, name="gone")
            await settled()
        else:
            await ask_all(system, answered, count)
        if attack in {"exit", "kill"}:
            print(len(answered), flush=True)
            if attack == "exit":
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    if attack == "late":
        for n in range(count):
            with contextlib.suppress(Exception):
                await ref.tell(n)
        await settled()


def main():
    answered = []
    try:
        anyio.run(live, answered)
    except BaseException as error:
        print(type(error).__name__, file=sys.stderr)
    print(len(answered), flush=True)


main()
