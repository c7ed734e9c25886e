"""Fuzz a service by its OpenAPI description: `python -m tests.fuzz.openapi --seconds 1800 --seed 7`.

Schemathesis sends the description's examples, the edges of each schema, random valid and invalid requests,
and sequences of calls. A status of 500 and above, a status or a content type that the description does not
name, and an answer outside its schema are failures; each is printed with a curl command that repeats it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from nextchar.app.rooms import ApiSettings
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.kernels.compile_cache import use_cache_folder
from tests.app.service import TEXT, serving_real
from tests.models.runtime.networks import saved_model

_ROOT = Path(__file__).parents[2]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
ENDLESS = ("/v1/models/{model}/ingest/events",)
"""Streams that never end; `tests/fuzz/test_wire_formats.py` reads them."""

# A fresh service has no worker, so it is not ready; what it says then is part of its description.
_CONFIG = """
request-timeout = 60
continue-on-failure = true

[generation]
deterministic = false
database = "none"

{dictionaries}

[[operations]]
include-path = "/readyz"
[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503"]
"""


@contextlib.contextmanager
def service(folder: Path, redis_url: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Run a service with something of each kind in it; yield its URL and the ids of those things."""
    settings = ApiSettings(
        data_dir=folder,
        redis_url=redis_url,
        port=0,
        max_corpus_bytes=1 << 20,
        max_model_bytes=1 << 20,
        training_memory_bytes=2 << 30,
        min_free_bytes=0,
        alertmanager_url="http://127.0.0.1:9",  # where nothing listens
    )
    # The experts of a text, so that every kind of score has what it needs.
    saved = saved_model(name="fox", mixed_text=TEXT)
    with serving_real(settings, saved) as http:
        yield str(http.base_url), _fill(http)


def _fill(http: httpx.Client) -> dict[str, list[str]]:
    def post(path: str, **options: object) -> dict[str, object]:
        answer = http.post(path, **options)  # type: ignore[arg-type]
        assert answer.status_code < 300, answer.text
        made: dict[str, object] = answer.json()
        return made

    http.get("/openapi.json").raise_for_status()  # made now: schemathesis waits ten seconds only
    corpus = post("/v1/corpora?name=foxes", content=TEXT.encode())["id"]
    job = post("/v1/jobs", json={"corpus": corpus, "name": "later", "preset": "tiny"})["id"]
    post("/v1/models/fox/calibrate", json={"lines": [f"the quick brown fox {i}" for i in range(60)]})
    post("/v1/models/fox/score", json={"lines": ["zzzzqqqq~~~~"], "alerts": True})
    alerts = http.get("/v1/models/fox/alerts").json()["data"]
    targets = http.get("/v1/notification_targets").json()["data"]
    return {
        "model": ["fox", "fox@1", "fox@champion"],
        "corpus": [str(corpus), "foxes"],
        "file": [str(corpus)],
        "job": [str(job)],
        "alert": [str(one["id"]) for one in alerts] or ["alert_1"],
        "alias": ["champion"],
        "target": [str(one["id"]) for one in targets],
        "name": ["default", "model.json", "model.onnx"],
    }


def run(
    url: str,
    known: dict[str, list[str]],
    *,
    seconds: int,
    seed: int,
    folder: Path,
    phases: Sequence[str] = ("examples", "coverage", "fuzzing", "stateful"),
) -> tuple[int, str]:
    """Fuzz the service at `url` for at most `seconds`; return the exit status and what was printed."""
    bound = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in known.items()]
    bound.append("[parameters]")
    bound += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.7 }}' for name in known]
    config = folder / "schemathesis.toml"
    config.write_text(_CONFIG.format(dictionaries="\n".join(bound)))
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(config), "run"]
    command += [f"{url}/openapi.json", "--seed", str(seed), "--max-time", str(seconds), "--checks"]
    command += [
        ",".join(CHECKS),
        "--warnings",
        "off",
        "--suppress-health-check",
        "all",
        "--no-shrink",
        "--output-sanitize",
        "false",
    ]
    command += ["--phases", ",".join(phases)]
    for path in ENDLESS:
        command += ["--exclude-path", path]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.fuzz.schemathesis_hooks", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ | hooks, check=False
    )
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    """Run until the time is over; return 1 if something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    use_cache_folder(_ROOT / "data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            EmbeddedValkey(folder / "valkey") as valkey,
            service(folder / "data", valkey.url) as (url, known),
        ):
            status, printed = run(url, known, seconds=asked.seconds, seed=asked.seed, folder=folder)
    print(printed)
    print(f"seed {asked.seed}, {asked.seconds} s, exit status {status}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
