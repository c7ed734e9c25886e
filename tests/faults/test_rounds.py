"""A dozen short fault rounds; `make faults` runs many long ones."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.faults.faults import KINDS
from tests.faults.installation import Installation
from tests.faults.redis_proxy import RedisProxy
from tests.faults.rounds import Runner, plan, table

SEED = 18
ROUNDS = 12


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_in_a_dozen_rounds(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")  # its kernels raise IndexError outside of their arrays
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    with Installation(tmp_path_factory.mktemp("f")) as installation:
        kinds = [k for k in KINDS if k.is_short and (installation.has_own_disk or not k.needs_own_disk)]
        runner = Runner(
            installation,
            job_steps=30,
            job_every=4,
            settle_every=ROUNDS,
            latest_s=1.0,
            max_fault_s=1.0,
            recovery_s=90.0,  # other tests run at the same time
        )
        runner.prepare()
        outcomes = list(runner.run(plan(SEED, ROUNDS, kinds)))
    print(table(outcomes))
    assert {o.round.number: o.violations for o in outcomes if o.violations} == {}
    assert len(runner.ledger.jobs) == 1 + ROUNDS // 4 and len(runner.ledger.corpora) > 5


def test_a_seed_gives_the_same_plan_in_which_every_kind_of_fault_occurs() -> None:
    planned = plan(1, 2 * len(KINDS))
    assert planned == plan(1, 2 * len(KINDS)) != plan(2, 2 * len(KINDS))
    assert planned[:5] == plan(1, 5)
    for half in (planned[: len(KINDS)], planned[len(KINDS) :]):
        assert {one.kind for one in half} == set(KINDS)


def test_the_proxy_passes_refuses_and_breaks_off(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, RedisProxy(tmp_path / "s") as proxy:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def connected() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
            server = stack.enter_context(listener.accept()[0])
            return client, server

        with contextlib.ExitStack() as stack:
            client, server = connected()
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"an answer")
            assert client.recv(100) == b"an answer"
            proxy.set_mode("cut")
            server.sendall(b"an answer that is broken off")
            received = client.recv(100)
            assert len(received) == 7 and client.recv(100) == b""
            client, server = connected()
            client.sendall(b"question")
            assert server.recv(100) == b"question"  # so the proxy has both ends
            proxy.set_mode("refuse")
            assert client.recv(100) == b""
