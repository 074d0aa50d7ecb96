"""What recording ray keeps of messages, and how many types of actors it counts, with no setting changed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest

from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes._ray_history import History
from papyra_otel.runtimes._ray_state import ActorSeen, Death
from papyra_otel.testing import CapturingEmitter
from runtimes.privacy_support import DOCUMENTED, NOWHERE, TYPES, assert_capped, mark, places
from runtimes.ray_support import ENVIRONMENT, PROGRAMS, running_cluster


@pytest.mark.skipif(util.find_spec("ray") is None, reason="ray is installed in nox -s ray only")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_log_has_of_calls_what_is_documented_and_no_more(tmp_path):
    cluster, job = tmp_path / "cluster", tmp_path / "job"
    cluster.mkdir()
    job.mkdir()
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    with running_cluster(cluster) as address:
        done = subprocess.run(
            [instrument, sys.executable, str(PROGRAMS / "ray_private.py")],
            env=ENVIRONMENT | {"RAY_LIFE_CLUSTER": address, "RAY_PRIVATE_MARK": mark("")[:-1]},
            cwd=job,
            capture_output=True,
            text=True,
            check=True,
            timeout=200,
        )
    words = [mark(what) for what in ("handled", "password", "local", "raised")]
    assert json.loads(done.stdout.splitlines()[-1]) == [*words, "ActorDiedError"]
    # ray keeps what calls carry where only the actor that is dead would read it
    assert places(job / "papyra-facts", DOCUMENTED) == {**DOCUMENTED, "letter": NOWHERE}


def test_a_thousand_types_of_actors_are_counted_as_the_first_and_others():
    counters = Counters()
    history = History(Recorder(CapturingEmitter(), counters), Guard(counters), "shop")
    seen = [
        ActorSeen(
            id=f"a{n}",
            type=f"shop.Clerk{n}",
            name=None,
            state="ALIVE",
            restarts=0,
            max_restarts=0,
            detached=False,
            start_ms=1000,
            end_ms=0,
        )
        for n in range(TYPES)
    ]
    history.look(seen)
    killed = Death(cause="actor_died_error_context", text="ray.kill")
    history.look([replace(each, state="DEAD", end_ms=2000, death=killed) for each in seen])
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []
    assert_capped(counters, s.ACTOR_STOPS)
