"""Calls with words that nobody may find later; nothing in here knows of papyra-otel. Ends with what it saw."""

import json
import os
import sys

import ray


@ray.remote(num_cpus=0)
class Clerk:
    def work(self, order, *, fail, password):
        local = "-".join((os.environ["RAY_PRIVATE_MARK"], "local"))
        if fail:
            raise ValueError("-".join((os.environ["RAY_PRIVATE_MARK"], "raised")))
        return [order, password, local]

    def leave(self, order):
        del order
        os._exit(1)


word = os.environ["RAY_PRIVATE_MARK"]
ray.init(
    address=os.environ["RAY_LIFE_CLUSTER"],
    log_to_driver=False,
    runtime_env={"env_vars": {"RAY_PRIVATE_MARK": word}},
)
clerk = Clerk.remote()
seen = ray.get(clerk.work.remote(f"{word}-handled", fail=False, password=f"{word}-password"))
try:
    ray.get(clerk.work.remote(f"{word}-argument", fail=True, password=f"{word}-password"))
except ValueError as error:
    seen.append(str(error.cause))
try:
    ray.get(clerk.leave.remote(f"{word}-letter"))
except ray.exceptions.RayActorError as error:
    seen.append(type(error).__name__)
ray.shutdown()
sys.stdout.write(json.dumps(seen) + "\n")
