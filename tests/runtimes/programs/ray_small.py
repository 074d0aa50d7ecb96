"""One actor, one call; nothing in here knows of papyra-otel."""

import os

import ray


@ray.remote(num_cpus=0)
class Echo:
    def say(self, word):
        return word


ray.init(address=os.environ["RAY_LIFE_CLUSTER"], log_to_driver=False)
echo = Echo.remote()
assert ray.get(echo.say.remote("hello")) == "hello"
ray.shutdown()
