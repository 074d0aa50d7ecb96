"""The adapter of ray keeps the contract of adapters, as far as a driver goes: what a job's own process can tell."""

from __future__ import annotations

from importlib import util

import pytest

from papyra_otel import semconv as s
from papyra_otel.runtimes.ray import RayAdapter
from papyra_otel.testing import RuntimeContract
from runtimes.ray_support import ENVIRONMENT, running_cluster

pytestmark = [
    pytest.mark.skipif(util.find_spec("ray") is None, reason="ray is installed in nox -s ray only"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


class TestRay(RuntimeContract):
    """Workers get nothing to record with here: what they tell is in test_ray.py."""

    @pytest.fixture(autouse=True)
    def in_cluster(self, cluster, monkeypatch):
        for name, text in ENVIRONMENT.items():
            monkeypatch.setenv(name, text)
        self.address = cluster

    def new_adapter(self, recorder, guard):
        return RayAdapter(recorder, guard, "shop")

    def patched(self):
        from ray._private import function_manager, worker

        manager = function_manager.FunctionActorManager, "_make_actor_method_executor"
        return [manager, (worker, "connect"), (worker, "disconnect"), (worker.Worker, "get_objects")]

    def play(self):
        import ray

        @ray.remote(num_cpus=0)
        class Divider:
            def divide(self, by):
                return 10 / by

            def wait(self):
                import time

                time.sleep(3600)  # until it is killed

        ray.init(address=self.address, log_to_driver=False)
        try:
            divider = Divider.remote()
            seen = [ray.get(divider.divide.remote(5))]
            try:
                ray.get(divider.divide.remote(0))
            except ZeroDivisionError as error:
                seen.append(type(error.cause).__name__)
            waiting = divider.wait.remote()
            try:
                ray.get(waiting, timeout=0.01)
            except ray.exceptions.GetTimeoutError:
                seen.append("timed out")
            ray.kill(divider)
            try:
                ray.get(waiting)
            except ray.exceptions.RayActorError as error:
                seen.append(type(error).__name__)
        finally:
            ray.shutdown()
        return seen

    def history(self):
        return {f"{__name__}.Divider": [s.ASK_TIMED_OUT, s.ACTOR_STOPPED, s.DEAD_LETTER_CAPTURED]}
