import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from nextchar.app import main
from nextchar.app.main import create_app
from nextchar.app.rooms import ROOMS, ApiSettings, open_rooms
from nextchar.launcher.stack import free_port
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.kernels.compile_cache import SERVING, compile_in_child_process
from nextchar.models.saved_model import Card, describe_files
from nextchar.models.text import successors
from nextchar.models.text import templates as templates_file
from nextchar.models.text.events import Opener
from nextchar.models.text.masks import Masked
from nextchar.models.text.successors import Successors
from nextchar.models.text.templates import Templates
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.store.ids import new_id
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.raw_http import read_answer
from tests.app.service import until
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[2]
V, E, H = 28, 8, 16


def publish_real(
    data_dir: Path, *, masks: tuple[str, ...] = (), opener: Opener | None = None, lines: Sequence[str] = ()
) -> None:
    """Publish a model `real` with random weights; with an opener its lines are joined to events.

    With lines it has their templates.
    """
    random = np.random.default_rng(0)
    shapes = {
        "embedding": (V, E),
        "lstm_0/kernel": (E, 4 * H),
        "lstm_0/recurrent": (H, 4 * H),
        "lstm_0/bias": (4 * H,),
        "dense/kernel": (H, V),
        "dense/bias": (V,),
    }
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    files = {"model.onnx": stateful_lstm_graph(weights)}
    if opener or lines:
        files[templates_file.FILE] = templates_file.dump(Templates.fit(lines, opener))
    if lines:
        files[successors.FILE] = Successors.fit([Masked(line, None) for line in lines], lines).dump()
    card = Card(
        id=new_id("model"),
        name="real",
        created_at=1795563600,
        network=NetworkConfig(units=H, embedding=E),
        training=TrainingConfig(),
        masks=masks,
        characters=Vocabulary("\nabcdefghijklmnopqrstuvwxyz").characters,
        parameters=1,
        files=describe_files(files),
    )
    Models(open_blobs((data_dir / "store").as_uri())).publish(card, files)


@pytest.fixture
def process(tmp_path: Path, redis_url: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, float]]:
    """`python -m nextchar.app.main` with a model on disk; the process, a client, and when it was started."""
    began = time.monotonic()
    settings = {"NEXTCHAR_DRAIN_S": "3600"}
    with (
        started(tmp_path, redis_url, settings) as (running, url),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        yield running, http, began


@contextlib.contextmanager
def started(
    data_dir: Path,
    redis_url: str,
    settings: dict[str, str],
    *,
    open_files: int | None = None,
    with_model: bool = True,
    program: Sequence[str] = ("-m", "nextchar.app.main"),
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `python -m nextchar.app.main` with a model on disk, published first; the process and its URL."""
    # In the folder that all tests share, once. Compiled by the process, a test could wait too long for it.
    compile_in_child_process(*SERVING, measures_variants=False)
    if with_model:
        publish_real(data_dir)
    port = free_port("127.0.0.1")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCHAR_")} | {
        "NEXTCHAR_DATA_DIR": str(data_dir),
        "NEXTCHAR_REDIS_URL": redis_url,
        "NEXTCHAR_PORT": str(port),
    }
    command = [sys.executable, *program]
    if open_files:
        command = ["/bin/sh", "-c", f'ulimit -n {open_files}; exec "$0" "$@"', *command]
    running = subprocess.Popen(command, cwd=ROOT, env=environment | settings)
    try:
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        assert running.wait(120) in (0, -signal.SIGTERM, -signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken, which other processes do not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_process_is_ready_soon_stays_small_answers_with_the_real_runtime_and_stops_at_once(
    process: tuple[subprocess.Popen[bytes], httpx.Client, float],
) -> None:
    running, http, began = process
    until(lambda: is_ready(http))
    ready_s = cpu_seconds(running.pid) if sys.platform == "linux" else time.monotonic() - began
    body = {"prompt": "the quick ", "max_characters": 20, "seed": 3, "n": 2}
    first = http.post("/v1/models/real/complete", json=body).json()
    assert first == first | {"model": "real@1", "unknown_characters": [" "]}
    assert [len(c["text"]) for c in first["completions"]] == [20, 20]
    again = http.post("/v1/models/real/complete", json=body).json()
    assert again["completions"] == first["completions"]
    assert again["usage"]["cached_characters"] > 0

    with http.stream("POST", "/v1/models/real/complete", json=body | {"stream": True}) as answer:
        lines = list(answer.iter_lines())
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines if '"text"' in line]
    for index in (0, 1):
        streamed = "".join(p["text"] for p in pieces if p["index"] == index)
        assert streamed == first["completions"][index]["text"]

    scored = http.post("/v1/models/real/score", json={"text": "thx"}).json()
    lines_scored = http.post("/v1/models/real/score", json={"lines": ["thx", "a"]}).json()
    assert lines_scored["lines"][0]["bits"] == pytest.approx(scored["bits"], abs=1e-3)
    following = http.post("/v1/models/real/next", json={"prompt": "\nth", "top": 27}).json()
    probability = {c["character"]: c["probability"] for c in following["candidates"]}
    assert scored["bits"][2] == pytest.approx(-np.log2(probability["x"]), abs=1e-3)

    assert "nextchar_engine_weight_bytes" in http.get("/metrics").text
    assert ready_s < 8, f"ready after {ready_s:.1f} s"
    if sys.platform == "linux":
        status = Path(f"/proc/{running.pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
        assert resident < 400e6, f"{resident / 1e6:.0f} MB resident"

    corpus = http.post("/v1/corpora", content=b"the quick brown fox\n" * 20).json()["id"]
    job = http.post("/v1/jobs", json={"corpus": corpus, "name": "fox"}).json()["id"]
    headers = {"Accept": "text/event-stream"}
    with http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        running.terminate()
        assert answer.read() == b"", "a watcher is not waited for"
    assert running.wait(120) in (0, -signal.SIGTERM)


@pytest.fixture
def several(tmp_path: Path, redis_url: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The same with two processes on the port; the parent, and the URL."""
    with started(tmp_path, redis_url, {"NEXTCHAR_PROCESSES": "2", "NEXTCHAR_PINNED_MODELS": "real"}) as both:
        yield both


def test_several_processes_answer_alike_hear_of_each_others_models_and_end_with_their_parent(
    several: tuple[subprocess.Popen[bytes], str],
) -> None:
    running, url = several
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    if not children.exists():
        pytest.skip("the kernel does not list child processes here")

    def ask(seed: int) -> httpx.Response:
        with httpx.Client(base_url=url, timeout=60) as http:  # a new connection: any of the processes
            return http.post("/v1/models/real/complete", json={"prompt": "the quick", "seed": seed})

    def served_by() -> set[str]:
        """Start times tell the processes apart."""
        with ThreadPoolExecutor(12) as threads:
            pages = threads.map(lambda _: httpx.get(f"{url}/metrics", timeout=60).text, range(24))
            return {
                found for page in pages for found in re.findall(r"\nnextchar_process_start\S* (\S+)", page)
            }

    with httpx.Client(base_url=url, timeout=60) as http:
        until(lambda: is_ready(http))
    until(lambda: len(served_by()) > 1)
    with ThreadPoolExecutor(12) as threads:
        answers = [answer.json() for answer in threads.map(ask, [1, 2] * 24)]
    assert len({answer["completions"][0]["text"] for answer in answers}) == 2

    victim = next(pid for pid in map(int, children.read_text().split()) if _serves(pid))
    os.kill(victim, signal.SIGKILL)
    until(lambda: not _is_alive(victim))
    assert all(ask(1).status_code == 200 for _ in range(20))  # the others go on

    assert httpx.delete(f"{url}/v1/models/real", timeout=60).status_code == 200
    until(lambda: {ask(1).status_code for _ in range(10)} == {404})

    running.kill()  # the others end with their parent

    def nobody_answers() -> bool:
        try:
            httpx.get(f"{url}/healthz", timeout=60)
        except httpx.TransportError:
            return True
        return False

    until(nobody_answers)


@pytest.mark.long  # two processes; of one, in test_connections.py
def test_half_sent_requests_cannot_take_all_files_of_any_process(tmp_path: Path, redis_url: str) -> None:
    settings = {"NEXTCHAR_PROCESSES": "2", "NEXTCHAR_HEADER_TIMEOUT_S": "3600"}
    with (
        started(tmp_path, redis_url, settings, open_files=200) as (_, url),
        httpx.Client(base_url=url, timeout=60) as http,
        contextlib.ExitStack() as clients,
    ):
        until(lambda: is_ready(http))
        http.close()
        host, port = url.removeprefix("http://").split(":")
        for _ in range(500):
            client = clients.enter_context(socket.create_connection((host, int(port)), timeout=60))
            client.sendall(b"POST /v1/models/real/complete HTTP/1.1\r\nHost: localhost\r\nX-")
        for _ in range(6):  # new connections: any of the processes
            answer = httpx.post(f"{url}/v1/models/real/complete", json={"prompt": "the quick"}, timeout=60)
            assert answer.status_code == 200


def _serves(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("drain_s", "status"), [("3600", 201), ("0.5", 503)], ids=["within the time", "beyond it"]
)
def test_upload_across_a_stop_is_completed_or_rejected_with_503(
    tmp_path: Path, redis_url: str, drain_s: str, status: int
) -> None:
    text = b"the quick brown fox\n" * 20
    header = f"POST /v1/corpora HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
    with started(tmp_path, redis_url, {"NEXTCHAR_DRAIN_S": drain_s}, with_model=False) as (running, url):
        with httpx.Client(base_url=url, timeout=60) as http:
            until(lambda: is_ready(http))
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(header.encode() + text[:100])
            until(lambda: list((tmp_path / "spool").glob("*")))
            running.terminate()
            until(lambda: refuses(host, int(port)))
            if status == 201:
                client.sendall(text[100:])
            answer = read_answer(client)
        assert answer.status_code == status and answer.headers["connection"] == "close"
        if status == 503:
            assert answer.json()["error"]["code"] == "overloaded" and answer.headers["retry-after"] == "1"
        assert running.wait(120) in (0, -signal.SIGTERM)


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_first_completion_of_a_process_that_is_ready_loads_no_kernels(
    tmp_path: Path, redis_url: str
) -> None:
    with tarfile.open(ROOT / "tests/fixtures/installation.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    with (
        started(tmp_path, redis_url, {}, with_model=False) as (running, url),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        until(lambda: is_ready(http))
        before = cpu_seconds(running.pid)
        assert http.post("/v1/models/names/complete", json={"prompt": "An"}).status_code == 200
        # Importing the compiler and loading the kernels takes 0.6 s, and compiling them 8 s.
        assert cpu_seconds(running.pid) - before < 0.3


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_is_ready_once_kernels_are_compiled_and_loaded_or_cannot_be(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = threading.Event()
    done: list[tuple[object, ...]] = []

    def note(step: str, *modules: str, **_: object) -> None:
        done.append((step, *modules, loaded.is_set()))
        if fails and step == "load":
            raise RuntimeError("no compiler")

    monkeypatch.setattr(main, "compile_in_child_process", partial(note, "compile"))
    monkeypatch.setattr(main, "compile_kernels", partial(note, "load"))
    main._load_kernels(loaded)
    assert done == [("compile", *SERVING, False), ("load", *SERVING, False), ("compile", True)]


def test_stale_uploads_of_a_killed_process_are_removed(tmp_path: Path, redis_url: str) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    for name in ("upload-old", "upload-new"):
        (spool / name).write_text("x")
    os.utime(spool / "upload-old", (0, 0))
    settings = ApiSettings(data_dir=tmp_path, redis_url=redis_url)
    open_rooms(ROOMS, settings, stopping=threading.Event())
    assert [path.name for path in spool.iterdir()] == ["upload-new"]


def test_a_redis_that_hangs_is_waited_for_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "redis"))
        silent.listen()
        settings = ApiSettings(data_dir=tmp_path, redis_url=f"unix://{tmp_path}/redis")
        services = open_rooms(ROOMS, settings, stopping=threading.Event())
        with pytest.raises(RedisTimeoutError):
            services.redis.ping()
        services.redis.close()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # a second attempt would have made a second connection
            silent.accept()


# OpenAPI

ERROR = {"$ref": "#/components/schemas/ErrorBody"}


@cache
def openapi() -> dict[str, Any]:
    """Return the description; building it takes a second, so it is not done when tests are collected."""
    return create_app(ApiSettings()).openapi()


def operations() -> dict[str, Any]:
    """Return each operation by its method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
    }


def test_every_error_status_is_declared_with_the_error_schema() -> None:
    for call, operation in operations().items():
        answers = operation["responses"]
        errors = {status: answer for status, answer in answers.items() if int(status) >= 400}
        assert errors.keys() >= {"421", "431", "500"}, call
        for status, answer in errors.items():
            if (call, status) == ("GET /readyz", "503"):
                continue
            assert answer["content"]["application/json"]["schema"] == ERROR, (call, status)
        if "requestBody" in operation:
            assert errors.keys() >= {"403", "408", "413", "422", "503"}, call
        if "{" in call:
            assert "404" in errors, call


def test_every_body_has_an_example() -> None:
    for call, operation in operations().items():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [a for a in operation["responses"].values() if "content" in a]
        for body in bodies:
            assert any(_has_example(content) for content in body["content"].values()), (call, body)


def test_every_operation_is_described_and_named_once() -> None:
    names = [operation["operationId"] for operation in operations().values()]
    assert len(names) == len(set(names)) > 80
    assert not any(operation["summary"].istitle() for operation in operations().values())  # of its docstring


def _has_example(content: dict[str, Any]) -> bool:
    if "example" in content or "examples" in content:
        return True
    schema = content["schema"]
    if "$ref" in schema:
        schema = openapi()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    if "examples" in schema:
        return True
    properties = schema.get("properties", {})  # a page of things: they have examples
    return "data" in properties and _has_example({"schema": properties["data"]["items"]})


@pytest.mark.parametrize("program", ["nextchar.app.main", "nextchar.worker.main"])
def test_process_does_not_start_on_a_store_that_cannot_be_used(
    tmp_path: Path, redis_url: str, s3_server: S3Server, program: str
) -> None:
    variables = s3_server.environment() | {
        "NEXTCHAR_STORE_URL": "s3://no-such-bucket/prefix",
        "NEXTCHAR_DATA_DIR": str(tmp_path),
        "NEXTCHAR_REDIS_URL": redis_url,
    }
    done = subprocess.run(
        [sys.executable, "-m", program],
        cwd=ROOT,
        env=os.environ | variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "nextchar: NEXTCHAR_STORE_URL='s3://no-such-bucket/prefix': the bucket does not exist; create it, or"
        " correct the URL\n"
    )
