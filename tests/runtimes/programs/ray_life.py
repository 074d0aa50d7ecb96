"""A job whose history is known. Prints what it saw as JSON: the same whether it is recorded or not.

Arguments: how it is watched (``bare``, ``recorded``, ``broken``), and a folder of its own.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

HOW, FOLDER = sys.argv[1], Path(sys.argv[2])


def prepare_worker():
    """The program's own hook: it must run in every worker, and before anything of ours."""
    Path(os.environ["RAY_LIFE_FOLDER"], f"prepared-{os.getpid()}").touch()
    if os.environ["RAY_LIFE_HOW"] == "broken":
        from papyra_otel.recorder import Recorder

        def broken(*_: object, **__: object) -> None:
            raise OSError("broken on purpose")

        Recorder._event = broken


if HOW != "bare":
    import papyra_otel

    assert "ray" not in sys.modules
    papyra_otel.enable(runtimes=["ray"])
    assert "ray" not in sys.modules, "recording must not import ray"

import ray  # noqa: E402

SMALL = {"num_cpus": 0}


class Outer:
    @ray.remote(**SMALL)
    class Steady:
        def __init__(self, total):
            self.total = total

        def add(self, number):
            self.total += number
            return self.total

        def fail(self):
            raise ValueError("on purpose")

        def count(self, number):
            for each in range(number):  # noqa: UP028 - not "yield from": ray sends into the generator
                yield each

        def _hidden(self):
            return "hidden"


@ray.remote(**SMALL)
class Aio:
    async def work(self, number):
        await asyncio.sleep(0.01)
        return number * 2

    async def boom(self):
        await asyncio.sleep(0)
        raise KeyError("boom")

    async def stream(self, number):
        for each in range(number):
            yield each


@ray.remote(max_concurrency=4, **SMALL)
class Pool:
    def work(self, number):
        return number + 1


@ray.remote(max_restarts=1, **SMALL)
class Phoenix:
    @ray.method(max_task_retries=-1)  # while it is being restarted calls may fail
    def ok(self):
        return "ok"

    def die(self):
        os._exit(3)


@ray.remote(max_restarts=2, max_task_retries=2, **SMALL)
class Stubborn:
    def once(self, flag):
        if not Path(flag).exists():
            Path(flag).touch()
            os._exit(4)
        return "at last"


@ray.remote(**SMALL)
class Victim:
    def ok(self):
        return "ok"

    def slow(self, begun):
        Path(begun).touch()
        time.sleep(60)


@ray.remote(**SMALL)
class Leaver:
    def leave(self):
        ray.actor.exit_actor()


@ray.remote(**SMALL)
class Stillborn:
    def __init__(self):
        raise RuntimeError("born dead")

    def ok(self):
        return "ok"


@ray.remote(**SMALL)
class Forgotten:
    def pid(self):
        return os.getpid()


@ray.remote(**SMALL)
class Survivor:
    def ok(self):
        return "ok"


def seen(ask):
    try:
        return ask()
    except ray.exceptions.RayError as error:
        return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "ray.exceptions")


def until(came):
    deadline = time.monotonic() + 60
    while not came():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def main():
    said, survivor = {}, Survivor.remote()
    steady = Outer.Steady.options(name=f"steady-{HOW}").remote(10)
    aio, pool = Aio.remote(), Pool.remote()
    said["add"] = [ray.get(steady.add.remote(n)) for n in (1, 2, 3)]
    said["fail"] = seen(lambda: ray.get(steady.fail.remote()))
    said["count"] = [ray.get(ref) for ref in steady.count.options(num_returns="streaming").remote(3)]
    said["hidden"] = ray.get(steady._hidden.remote())
    said["aio"] = ray.get([aio.work.remote(n) for n in range(5)])
    said["boom"] = seen(lambda: ray.get(aio.boom.remote()))
    said["stream"] = [ray.get(ref) for ref in aio.stream.options(num_returns="streaming").remote(3)]
    said["pool"] = ray.get([pool.work.remote(n) for n in range(8)])
    said["survivor"] = ray.get(survivor.ok.remote())

    phoenix = Phoenix.remote()
    said["first life"] = ray.get(phoenix.ok.remote())
    said["first death"] = seen(lambda: ray.get(phoenix.die.remote()))
    said["second life"] = ray.get(phoenix.ok.remote())
    said["second death"] = seen(lambda: ray.get(phoenix.die.remote()))
    said["no life"] = [seen(lambda: ray.get(phoenix.ok.remote())) for _ in range(2)]

    stubborn = Stubborn.remote()
    said["stubborn"] = ray.get(stubborn.once.remote(str(FOLDER / "once")))

    victim, begun = Victim.remote(), FOLDER / "begun"
    running = victim.slow.remote(str(begun))
    until(begun.exists)
    waiting = victim.ok.remote()
    said["timed out"] = seen(lambda: ray.get(running, timeout=0.2))
    ray.kill(victim)
    said["killed"] = [seen(lambda ref=ref: ray.get(ref)) for ref in (running, waiting)]
    said["dead"] = seen(lambda: ray.get(victim.ok.remote()))

    leaver = Leaver.remote()
    said["left"] = seen(lambda: ray.get(leaver.leave.remote()))
    stillborn = Stillborn.remote()
    said["stillborn"] = seen(lambda: ray.get(stillborn.ok.remote()))
    forgotten = Forgotten.remote()
    pid = ray.get(forgotten.pid.remote())
    del forgotten
    until(lambda: is_gone(pid))
    return said, [steady, aio, pool, survivor, stubborn]  # these live until the job ends


if __name__ == "__main__":
    ray.init(
        address=os.environ["RAY_LIFE_CLUSTER"],
        log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": prepare_worker,
            "env_vars": {"RAY_LIFE_FOLDER": str(FOLDER), "RAY_LIFE_HOW": HOW},
        },
    )
    if HOW == "broken":
        os.environ |= {"RAY_LIFE_FOLDER": str(FOLDER), "RAY_LIFE_HOW": HOW}
        prepare_worker()
    told, alive = main()
    ray.shutdown()
    sys.stdout.write(json.dumps(told))
