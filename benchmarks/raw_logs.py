"""The share of flagged lines in the rest of a raw log, after 30 seconds of training with default options.

The whole service is started. Of each file the first 60 % of the lines are uploaded and trained on, and the
last 30 % are scored at a false-alarm rate of 1 %; all of them are taken to be normal, and an event of several
lines counts as one. Each is trained once
without masks, and once with the masks that the service suggests. Files whose name ends in `_labelled.tsv`
have a label, a kind and a line in each row; only rows labeled 0 are used. A log whose held-out tenth has
fewer than 99 lines does not support a rate of 1 %: the rate used is printed.

Each file takes about fifty seconds per run.

    python -m benchmarks.raw_logs [FILE…] [--seconds 30] [--default-only]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import print_json_line, print_table
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack

_DATA = Path("../shared/data")
_FILES = [_DATA / name for name in ("openssh_2k.log", "bgl_2k_labelled.tsv", "http_params_labelled.tsv")]
_TRAINED, _SCORED_FROM = 0.6, 0.7
_RATE = 0.01
_POLL_S = 0.5


def main() -> None:
    """Measure every file and print the results."""
    options = _arguments()
    found: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(LauncherSettings(data_dir=Path(folder), port=0)) as stack,
        httpx.Client(base_url=stack.url, timeout=600) as http,
    ):
        for number, file in enumerate(options.files):
            lines = normal_lines(file)
            for masks in (None,) if options.default_only else ([], None):
                name = f"log{number}-{'unmasked' if masks == [] else 'default'}"
                result = measure(http, lines, name=name, seconds=options.seconds, masks=masks)
                found.append({"file": file.name} | result)
    rows = [
        [
            one["file"],
            ", ".join(one["masks"]) or "none",
            f"{one['lines']:,}",
            f"{one['flagged']:.1%}",
            f"{one['rate']:g}",
            "yes" if one["drift"] else "no",
        ]
        for one in found
    ]
    print_table(["log", "masks", "lines", "flagged", "at rate", "drift"], rows, words=2)
    print_json_line("raw_logs", seconds=options.seconds, logs=found)


def normal_lines(file: Path) -> list[str]:
    """Return the lines of a log, or the normal ones of a labeled file, in the file's order."""
    lines = [line.removesuffix("\r") for line in file.read_text("utf-8", "replace").split("\n") if line]
    if file.name.endswith("_labelled.tsv"):
        return [line.split("\t", 2)[2] for line in lines if line.startswith("0\t")]
    return lines


def measure(
    http: httpx.Client,
    lines: Sequence[str],
    *,
    name: str,
    seconds: float,
    masks: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train on the first lines and score the last; `options` are more of the job's. Raises HTTPStatusError.

    Without `masks` they are the service's suggestion.
    """
    trained = lines[: int(_TRAINED * len(lines))]
    later = lines[int(_SCORED_FROM * len(lines)) :]
    corpus = _answer(http.post("/v1/corpora", content="".join(f"{line}\n" for line in trained).encode()))
    body = {"corpus": corpus["id"], "name": name, "budget": {"seconds": seconds}, **options}
    job = _answer(http.post("/v1/jobs", json=body if masks is None else body | {"masks": masks}))
    while job["status"] in ("queued", "running"):
        time.sleep(_POLL_S)
        job = _answer(http.get(f"/v1/jobs/{job['id']}"))
    assert job["status"] == "succeeded", job["error"]
    told = _score(http, name, later, rate=_RATE) or _score(http, name, later, rate=None)
    assert told is not None
    start, end = told
    return {
        "masks": job["masks"],
        "lines": end["lines"],
        "flagged": end["anomalous"] / end["events"],
        "rate": start["false_alarms"],
        "drift": "drift" in end,
    }


def _score(
    http: httpx.Client, model: str, lines: Sequence[str], *, rate: float | None
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the first and the last record of an answer; None if the calibration does not allow the rate."""
    options = {"detail": "none", "only": "anomalous"} | ({"false_alarms": str(rate)} if rate else {})
    text = "".join(f"{line}\n" for line in lines).encode()
    headers = {"Content-Type": "text/plain"}
    answer = http.post(f"/v1/models/{model}/score", params=options, content=text, headers=headers)
    if answer.status_code == 422 and rate:
        return None
    answer.raise_for_status()
    first, *_, last = answer.text.splitlines()
    return json.loads(first), json.loads(last)


def _answer(response: httpx.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-raw-logs", description="How many later lines of a raw log are flagged by default."
    )
    parser.add_argument("files", nargs="*", type=Path, default=_FILES, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training")
    parser.add_argument("--default-only", action="store_true", help="only with the suggested masks")
    return parser.parse_args()


if __name__ == "__main__":
    main()
