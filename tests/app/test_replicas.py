"""Two API processes behind HAProxy, with deploy/haproxy.cfg."""

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar import Client
from nextchar.app.access.keys import new_key
from nextchar.launcher.stack import free_port
from nextchar.launcher.valkey import EmbeddedValkey
from tests.app.test_main import ROOT, is_ready, publish_real, started
from tests.waiting import eventually

HAPROXY = shutil.which("haproxy")

pytestmark = [pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")]

PROMPT = "the quick brown fox jumps over the lazy dog " * 3
KEYS = {
    "owner": new_key("owner", scopes="read,complete,train"),
    "slow": new_key("slow", scopes="read,complete", rate="5/minute"),
    "admin": new_key("admin", scopes="admin"),
}


@dataclass
class Replicas:
    """The two processes by the names that HAProxy has for them, and a client of HAProxy."""

    http: httpx.Client
    processes: dict[str, "subprocess.Popen[bytes]"]
    socket: Path

    def command(self, text: str) -> None:
        """Send a command to HAProxy's socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(text.encode() + b"\n")
            assert connection.recv(1000).strip() == b""

    def complete(self, document: str | None, *, key: str = "owner", prompt: str = PROMPT) -> httpx.Response:
        """Complete a prompt in a document, if it is in one."""
        headers = as_(key) | ({"X-Document": document} if document else {})
        body = {"prompt": prompt, "max_characters": 4, "seed": 1}
        return self.http.post("/v1/models/real/complete", json=body, headers=headers)

    def is_used(self, name: str) -> bool:
        """Whether HAProxy sends requests to a process."""
        answers = (self.complete(f"document {number}") for number in range(20))
        return any(served_by(answer) == name for answer in answers)


def as_(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[key][0]}"}


def served_by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-served-by"])


@contextlib.contextmanager
def haproxy(urls: dict[str, str], folder: Path) -> Iterator[str]:
    """Run HAProxy in front of two processes; yield its URL."""
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    variables = {f"NEXTCHAR_{name.upper().replace('API', 'API_')}": url[7:] for name, url in urls.items()}
    variables |= {"NEXTCHAR_BIND": address, "NEXTCHAR_HAPROXY_SOCKET": str(folder / "haproxy.sock")}
    assert HAPROXY is not None
    command = [HAPROXY, "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    with (folder / "haproxy.log").open("wb") as log:
        running = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two processes and HAProxy for the module; the last test kills one of them."""
    folder = tmp_path_factory.mktemp("replicas")
    (folder / "keys").write_text("\n".join(line for _, line in KEYS.values()))
    publish_real(folder)
    settings = {"NEXTCHAR_API_KEYS_FILE": str(folder / "keys"), "NEXTCHAR_TRUSTED_PROXIES": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedValkey(folder))
        processes, urls = {}, {}
        for name in ("api1", "api2"):
            api = stack.enter_context(started(folder, valkey.url, settings, with_model=False))
            processes[name], urls[name] = api
        for url in urls.values():
            with httpx.Client(base_url=url) as http:
                eventually(lambda http=http: is_ready(http), what="the API is ready")
        url = stack.enter_context(haproxy(urls, folder))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        running = Replicas(http, processes, folder / "haproxy.sock")
        eventually(lambda: is_ready(http), what="HAProxy passes requests on")
        eventually(lambda: running.is_used("api1") and running.is_used("api2"), what="both are used")
        yield running


def test_options_of_the_address_are_several_words(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert HAPROXY is not None
    for options, refused in (("", None), (f"ssl crt {missing}", str(missing)), ("nonsense", "nonsense")):
        variables = {"NEXTCHAR_API_1": "127.0.0.1:1", "NEXTCHAR_API_2": "127.0.0.1:2"}
        variables |= {"NEXTCHAR_BIND_OPTIONS": options} if options else {}
        command = [HAPROXY, "-c", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == (refused is not None), done.stderr
        assert refused is None or f"{refused}'" in done.stderr, done.stderr


def test_documents_stay_with_their_process_and_limits_and_idempotency_hold_over_both(
    replicas: Replicas,
) -> None:
    for number in range(10):
        first, *others = (replicas.complete(f"document {number}") for _ in range(3))
        assert {served_by(answer) for answer in others} == {served_by(first)}
        usage = others[-1].json()["usage"]
        assert usage["cached_characters"] >= usage["prompt_characters"] - 1

    answers = [replicas.complete(f"document {number}", key="slow") for number in range(8)]
    assert [answer.status_code for answer in answers].count(429) == 3
    assert len({served_by(answer) for answer in answers if answer.status_code == 200}) == 2

    text = ("the quick brown fox\n" * 50).encode()
    corpus = replicas.http.post("/v1/corpora", content=text, headers=as_("owner")).json()["id"]
    body = {"corpus": corpus, "name": "fox", "preset": "tiny", "budget": {"steps": 2}}

    def submit(number: int) -> httpx.Response:
        headers = as_("owner") | {"Idempotency-Key": "once", "X-Document": f"document {number}"}
        return replicas.http.post("/v1/jobs", json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(submit, range(8)))
    assert {job.status_code for job in jobs} <= {200, 202}, [job.text for job in jobs]
    assert len({job.json()["id"] for job in jobs}) == 1
    assert len({job.headers["x-served-by"] for job in jobs}) == 2

    replicas.command("set server api/api1 state drain")
    assert not replicas.is_used("api1")
    assert {served_by(replicas.complete(None)) for _ in range(6)} == {"api2"}
    replicas.command("set server api/api1 state ready")
    assert replicas.is_used("api1")


def test_address_of_a_client_is_its_own_whatever_it_claims(replicas: Replicas) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.3")
    with httpx.Client(base_url=replicas.http.base_url, transport=transport) as http:
        forged = as_("admin") | {"X-Forwarded-For": "203.0.113.9"}
        assert http.post("/v1/corpora", content=b"a text", headers=forged).status_code == 201
        [entry] = http.get("/v1/audit?key=admin&limit=1", headers=forged).json()["data"]
    assert (entry["action"], entry["address"]) == ("add_corpus", "127.0.0.3")


def test_requests_without_a_document_go_to_both_processes(replicas: Replicas) -> None:
    servers = Counter(served_by(replicas.complete(None)) for _ in range(20))
    assert min(servers["api1"], servers["api2"]) >= 8, servers


def test_tabs_of_one_key_are_divided_and_each_stays_with_its_process(replicas: Replicas) -> None:
    def servers(client: Client) -> set[str]:
        served: set[str] = set()
        client._http.event_hooks["response"] = [lambda one: served.add(one.headers["x-served-by"])]
        for length in range(4):
            client.complete("real", PROMPT + "abc"[:length], max_characters=1)
        return served

    with contextlib.ExitStack() as stack:
        url, key = str(replicas.http.base_url), KEYS["owner"][0]
        tabs = [stack.enter_context(Client(url, api_key=key)) for _ in range(20)]
        used = [servers(tab) for tab in tabs]
    assert {len(servers) for servers in used} == {1}
    counted = Counter(server for servers in used for server in servers)
    assert min(counted["api1"], counted["api2"]) >= 5, counted


def test_killed_process_fails_no_request_that_is_sent_once_more(replicas: Replicas) -> None:
    stopping = threading.Event()

    def type_into(document: str) -> list[Any]:
        failures: list[Any] = []
        while not stopping.is_set():
            for attempt in (1, 2):
                try:
                    answer = replicas.complete(document)
                    if answer.status_code == 200:
                        break
                    problem: object = (attempt, answer.status_code, answer.text[:200])
                except httpx.TransportError as error:
                    problem = (attempt, repr(error))
                failures.append(problem)
        return failures

    with ThreadPoolExecutor(6) as pool:
        typing = [pool.submit(type_into, f"document {number}") for number in range(6)]
        victim = served_by(replicas.complete("document 0"))
        survivor = {"api1": "api2", "api2": "api1"}[victim]
        replicas.processes[victim].send_signal(signal.SIGKILL)
        eventually(lambda: served_by(replicas.complete("document 0")) == survivor)
        eventually(lambda: not replicas.is_used(victim), what="all documents are with the survivor")
        stopping.set()
        failures = [failure for typist in typing for failure in typist.result()]
    assert not [failure for failure in failures if failure[0] == 2], failures
