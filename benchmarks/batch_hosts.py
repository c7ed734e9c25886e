"""`nextchar batch score` on a Ray cluster of three hosts, one of which dies in the middle.

The hosts are network namespaces of this machine, joined by a bridge: each has its own address and its own
Ray, and they share the file system and the processors. When a third of the parts are scored, every process
of one host is killed with SIGKILL. At the end each line must have one result, and the results must be those
of a run with processes of this machine. Needs root and `ip` (iproute2); without them nothing is run.

    python -m benchmarks.batch_hosts [--megabytes 6] [--seconds 10]
"""

import argparse
import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nextchar
from benchmarks.batch import log_text
from benchmarks.report import print_json_line, print_table
from benchmarks.server import ROOT

HOSTS = 3
START_S = 180.0
RUN_S = 500.0
_PORT = 6379
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_PARTS = "parts/*.jsonl"


def main() -> None:
    """Run, print what was found, and exit with 1 if a line was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=6.0, help="of the log (default 6)")
    parser.add_argument("--part-megabytes", type=float, default=0.2, help="of a part (default 0.2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training (default 10)")
    options = parser.parse_args()
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        sys.exit("network namespaces need root and the program ip (iproute2)")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # Ray's sockets need a short path
        folder = Path(name)
        log = folder / "log"
        log.write_bytes(log_text(int(options.megabytes * 1e6)))
        with nextchar.train(log.read_text()[:500_000], seconds=options.seconds) as model:
            model.save(folder / "model")
        command = [
            sys.executable,
            "-m",
            "nextchar",
            "batch",
            "score",
            str(log),
            "--model",
            str(folder / "model"),
        ]
        command += ["--part-size", str(options.part_megabytes)]
        local_s = _timed([*command, "--output", str(folder / "local"), "--engine", "local"])
        with cluster(folder) as hosts:
            ray = [*command, "--address", f"{hosts[0].address}:{_PORT}", "--actors", str(HOSTS)]
            whole_s = _timed(hosts[0].command([*ray, "--output", str(folder / "whole")]))
            killed_s, parts_before = _killed_run(hosts, [*ray, "--output", str(folder / "killed")], folder)
        expected, whole, killed = (_lines(folder / run) for run in ("local", "whole", "killed"))
    lost = len(set(expected) - set(killed))
    rows = [
        ["processes of this machine", f"{local_s:.1f}", f"{len(expected):,}", "–"],
        [f"{HOSTS} hosts", f"{whole_s:.1f}", f"{len(whole):,}", "no"],
        [f"{HOSTS} hosts, one killed", f"{killed_s:.1f}", f"{len(killed):,}", f"after {parts_before} parts"],
    ]
    print_table(["run", "seconds", "results", "killed"], rows)
    is_same = expected == whole == killed
    print("every line has one result, the same in all runs" if is_same else f"{lost} results are missing")
    print_json_line(
        "batch_hosts", hosts=HOSTS, seconds=[local_s, whole_s, killed_s], results=len(killed), same=is_same
    )
    sys.exit(not is_same)


class Host:
    """A network namespace with an address on the bridge."""

    def __init__(self, network: str, number: int) -> None:
        self.name, self.address = f"{network}h{number}", f"10.213.77.{number + 1}"

    def command(self, command: list[str]) -> list[str]:
        """Return a command that runs `command` on this host."""
        return ["ip", "netns", "exec", self.name, *command]

    def kill(self) -> int:
        """Kill every process of the host at once; return how many there were."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True
        )
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(listed.stdout.split())


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[list[Host]]:
    """Run Ray on HOSTS hosts, the first of which is the head; each has one processor."""
    network = f"nx{secrets.token_hex(2)}"
    hosts = [Host(network, number) for number in range(HOSTS)]
    bridge = f"{network}b"
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "link", "set", bridge, "up")
        for host in hosts:
            _run("ip", "netns", "add", host.name)
            _run(
                "ip",
                "link",
                "add",
                f"{host.name}o",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                host.name,
            )
            _run("ip", "link", "set", f"{host.name}o", "master", bridge, "up")
            _run(*host.command(["ip", "addr", "add", f"{host.address}/24", "dev", "eth0"]))
            for device in ("lo", "eth0"):
                _run(*host.command(["ip", "link", "set", device, "up"]))
        for number, host in enumerate(hosts):
            joining = (
                ["--address", f"{hosts[0].address}:{_PORT}"] if number else ["--head", "--port", str(_PORT)]
            )
            start = [*_RAY, "start", *joining, "--node-ip-address", host.address, "--num-cpus", "1"]
            start += ["--include-dashboard=false"] if not number else []
            start += ["--temp-dir", str(folder / "ray")] if not number else []
            start += ["--object-store-memory", str(200 << 20), "--disable-usage-stats"]
            _run(*host.command(start))
        yield hosts
    finally:
        for host in hosts:
            host.kill()
            subprocess.run(["ip", "netns", "delete", host.name], check=False)
        subprocess.run(["ip", "link", "delete", bridge], check=False)


def _killed_run(hosts: list[Host], command: list[str], folder: Path) -> tuple[float, int]:
    """Run a command on the first host, and kill the last host; return the seconds and the parts before."""
    total = len(list((folder / "whole").glob(_PARTS)))
    began = time.perf_counter()
    with subprocess.Popen(hosts[0].command(command), cwd=ROOT, env=_environment()) as process:
        parts = 0
        while process.poll() is None and parts < total / 3:
            time.sleep(0.05)
            parts = len(list((folder / "killed").glob("scored/*")))
        if process.poll() is not None:
            raise RuntimeError("the run ended before a host was killed")
        print(
            f"killed {hosts[-1].kill()} processes of {hosts[-1].name} after {parts} of {total} parts",
            flush=True,
        )
        if process.wait(RUN_S) != 0:
            raise RuntimeError(f"the run ended with status {process.returncode}")
    return time.perf_counter() - began, parts


def _lines(folder: Path) -> list[tuple[int, float]]:
    """Return offset and score of each result, in the order of the lines; doubled ones are there twice."""
    records = itertools.chain.from_iterable(
        part.read_text(encoding="utf-8").splitlines() for part in folder.glob(_PARTS)
    )
    return sorted((record["offset"], record["score"]) for record in map(json.loads, records))


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=_environment(), check=True, timeout=RUN_S)
    return time.perf_counter() - began


def _run(*command: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), check=False, capture_output=True, text=True, timeout=START_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "clients" / "python")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_AUTH_MODE": "disabled",  # by default it depends on whether this user has a token
    }


if __name__ == "__main__":
    main()
