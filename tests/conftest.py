"""What tests of several packages share: a real Valkey, and the texts beside the repository."""

import contextlib
import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis

from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.kernels.compile_cache import use_cache_folder
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.s3_server import S3Server
from tests.warm_stack import WarmStack

# A machine that does other work is no fault of the code.
settings.register_profile("nextchar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nextchar")

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # what tests expect is what CPUs do

# Other tests keep the other cores busy: threads of a small product wait for each other in busy loops.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch

_ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = (
    f"{_ROOT}:{_ROOT / 'clients' / 'python'}"  # programs that tests start run this checkout
)

use_cache_folder(_ROOT / "data")  # services that tests start compile nothing twice

# No test cuts the power, and waiting for the disk took longer than most of them compute. What is synced, and
# when, is recorded by tests/store/power_loss.py.
os.fsync = os.fstat  # type: ignore[assignment]  # which refuses what is no open file, too

_TEXTS = Path(__file__).parents[2] / "shared" / "data"

_FIRST = (  # files that take half a minute and more or have such a test, the longest first, and single tests
    "tests/worker/test_distributed.py",
    "tests/worker/test_tasks.py",
    "tests/install/test_wheel.py",
    "tests/test_readme.py",  # this and the next five in one process, which has started their stack
    "tests/sdks/test_openai_python.py",
    "tests/sdks/test_openai_node.py",
    "tests/launcher/test_demo.py",
    "tests/browser/console/test_training.py::test_file_becomes_model_and_completion_in_two_clicks",
    "tests/faults/test_rounds.py",
    "tests/fuzz/test_openapi.py",
    "tests/launcher/test_stack.py",
    "tests/launcher/batch/test_ray.py",
    "tests/app/openai/test_batch_kill.py",
    "tests/app/test_main.py",
    "tests/benchmarks/test_serving.py",
    "tests/fuzz/test_hostile_files.py",
    "tests/benchmarks/test_quality.py",
)

_LONG = (  # what `make test-long` runs, and `make test` does not, beside the tests that are marked so
    "tests/app/openai/test_batch_kill.py",  # fault rounds of one kind; test_batch_routes.py is in `make test`
    "tests/benchmarks/",
    "tests/browser/test_editors.py",  # packages of npm, and the same ghost text
    "tests/browser/test_recipes.py",
    "tests/faults/",
    "tests/fuzz/",
    "tests/launcher/batch/test_ray.py",  # Ray's own processes; test_runs.py has the same on this machine's
    "tests/test_mutants.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep what collecting makes out of garbage collections: half a million long-lived objects."""
    gc.disable()
    try:
        _import_share(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _import_share(config: pytest.Config) -> None:
    """Import other modules of tests first than the other processes of pytest-xdist do.

    All import all of them, in one order. In a new checkout each would compile what the others compile at the
    same time; so each finds most of it compiled.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    number, count = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    folders = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    files = sorted(file for folder in folders for file in folder.glob("**/test_*.py"))
    for file in files[number * len(files) // count : (number + 1) * len(files) // count]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # collecting it says what is wrong
            importlib.import_module(".".join(file.relative_to(_ROOT).with_suffix("").parts))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long tests, and have several processes run the slowest files first.

    What begins last leaves the other cores idle.

    A process that has nothing left to do takes tests from the end of another's. So these are not divided, and
    what the tests of a file share is made once.
    """
    for item in items:
        if item.nodeid.startswith(_LONG):
            item.add_marker("long")
    if "PYTEST_XDIST_WORKER" not in os.environ:  # one process keeps the order that was asked for
        return
    rank = {name: place for place, name in enumerate(_FIRST)}

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return rank.get(item.nodeid, rank.get(file, len(rank)))

    items.sort(key=place)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded Valkey for the session."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as valkey:
        with Redis.from_url(valkey.url) as redis:
            redis.config_set("hz", 100)  # WAITAOF, which accepted lines wait for, is answered so often
        yield valkey.url


@pytest.fixture(scope="session")
def _redis_clients(redis_url: str) -> Iterator[dict[bool, Redis]]:
    """The session's clients, by whether they decode: a thread that outlives its test finds its own open."""
    with Redis.from_url(redis_url) as raw, Redis.from_url(redis_url, decode_responses=True) as decoding:
        yield {False: raw, True: decoding}


@pytest.fixture
def clean_redis_url(redis_url: str, _redis_clients: dict[bool, Redis]) -> str:
    """The session's Valkey, emptied."""
    _redis_clients[False].flushall()
    return redis_url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Moto's S3 server for the session."""
    with S3Server(tmp_path_factory.mktemp("s3") / "moto.log") as server:
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix in an empty bucket; the environment has its credentials."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.new_bucket()}/some/prefix"


@pytest.fixture(params=["file", "memory", "s3"])
def each_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    """An empty storage: in a folder, in memory, in S3. What all have in common is tested on each of them."""
    if request.param == "s3":
        return open_blobs(request.getfixturevalue("s3_url"))
    if request.param == "memory":
        return open_blobs("memory:///")
    return open_blobs(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    """An empty storage in a folder."""
    return open_blobs(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture
def redis(clean_redis_url: str, _redis_clients: dict[bool, Redis]) -> Redis:
    """An empty Redis, by a client that decodes responses."""
    return _redis_clients[True]


@pytest.fixture
def raw_redis(clean_redis_url: str, _redis_clients: dict[bool, Redis]) -> Redis:
    """The same, by a client that does not."""
    return _redis_clients[False]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service on a free port, for the session; `tests/launcher` has it as production starts it."""
    with WarmStack(LauncherSettings(data_dir=tmp_path_factory.mktemp("stack"), port=0)) as running:
        yield running


@pytest.fixture
def real_text() -> Callable[[str], str]:
    """A function that reads one of the real texts, or skips the test by the text's name."""

    def read(name: str) -> str:
        path = _TEXTS / name
        if not path.exists():
            pytest.skip(f"the real text {name} is not beside the repository")
        return path.read_text(encoding="utf-8")

    return read


@pytest.fixture
def run_script() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start Python code in a process of its own; whatever still runs at the end of the test is killed."""
    started = []

    def run(code: str, *arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], cwd=_ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
