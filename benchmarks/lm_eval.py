"""Compares the score of lm-evaluation-harness, unmodified, with our own.

A model is trained on a text except its end. The end, split into documents, is a local task of the harness:
`loglikelihood_rolling` through `local-completions`, which gets character ids from /tokenize and sends them to
/v1/completions. Its bits per byte are compared with those of /v1/models/{model}/score. Prints a table and one
JSON line; exits with status 1 if they differ.

    python -m benchmarks.lm_eval [--text FILE] [--seconds 20]

The harness is expected in .venv/lm-eval (installed by `make bench-lm-eval`), or at --harness.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import print_json_line, print_table
from nextchar import Client
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from nextchar.types import FINAL_STATUSES

ROOT = Path(__file__).parents[1]
DEFAULT_TEXT = ROOT.parent / "shared" / "data" / "nietzsche.txt"
MODEL = "judged"
TASK = "nextchar_held_out"
DOCUMENT_CHARACTERS = 1500
MAX_LENGTH = 20_000  # of the harness's windows: every document is read in one
TOLERANCE_BITS = 1e-4  # per byte; our score rounds each character's bits to four places

_TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
  - metric: byte_perplexity
metadata:
  version: 1
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score with both, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT, help="a UTF-8 file")
    parser.add_argument("--seconds", type=float, default=20.0, help="training time")
    parser.add_argument("--documents", type=int, default=20, help="held-out documents")
    parser.add_argument("--harness", type=Path, default=ROOT / ".venv" / "lm-eval" / "bin" / "lm_eval")
    options = parser.parse_args(arguments)
    if not options.harness.exists():
        parser.error(f"{options.harness} is not there; `make bench-lm-eval` installs it")
    try:
        learned, documents = split(options.text.read_text(encoding="utf-8"), options.documents)
    except (OSError, ValueError) as error:
        parser.error(f"--text {options.text}: {error}")
    with tempfile.TemporaryDirectory() as folder:
        settings = LauncherSettings(data_dir=Path(folder) / "data", port=0)
        with Stack(settings) as stack, Client(stack.url) as client:
            train(client, learned, options.seconds)
            ours = scored(client, documents)
            theirs = judged(options.harness, stack.url, Path(folder), documents)
    print_table(
        ("", "bits per byte", "documents", "seconds"),
        [
            ["/score", f"{ours['bits_per_byte']:.6f}", str(len(documents)), f"{ours['seconds']:.1f}"],
            ["lm-evaluation-harness", f"{theirs['bits_per_byte']:.6f}", str(len(documents)),
             f"{theirs['seconds']:.1f}"],
        ],
    )  # fmt: skip
    difference = abs(ours["bits_per_byte"] - theirs["bits_per_byte"])
    print_json_line("lm-eval", text=options.text.name, ours=ours, theirs=theirs, difference=difference)
    if difference > TOLERANCE_BITS:
        raise SystemExit(f"they differ by {difference:.6f} bits per byte")


def split(text: str, count: int) -> tuple[str, list[str]]:
    """Return the training text and the last `count` documents. Raises ValueError for a short text."""
    held_out = count * DOCUMENT_CHARACTERS
    if len(text) < 2 * held_out:
        raise ValueError(f"{len(text)} characters, and {2 * held_out} are needed")
    end = text[-held_out:]
    return text[:-held_out], [
        end[at : at + DOCUMENT_CHARACTERS] for at in range(0, held_out, DOCUMENT_CHARACTERS)
    ]


def train(client: Client, text: str, seconds: float) -> None:
    """Train `MODEL` on a text."""
    print(f"training for {seconds:g} s ...", file=sys.stderr, flush=True)
    corpus = client.add_corpus([text.encode()])["id"]
    # Completions use the mixture and scores the network, so without a mixture both are the same.
    asked = {"corpus": corpus, "name": MODEL, "preset": "tiny", "budget": {"seconds": seconds}}
    asked["mixture"] = False
    job = client.create_job(asked)
    while job["status"] not in FINAL_STATUSES:
        time.sleep(0.5)
        job = client.job(job["id"])
    if job["status"] != "succeeded":
        raise SystemExit(f"the training ended as {job['status']}: {job['error']}")


def scored(client: Client, documents: Sequence[str]) -> dict[str, float]:
    """Return our bits per byte over all documents."""
    began_s = time.perf_counter()
    bits = sum(client.score(MODEL, document)["total_bits"] for document in documents)
    size = sum(len(document.encode()) for document in documents)
    return {"bits_per_byte": bits / size, "seconds": time.perf_counter() - began_s}


def judged(harness: Path, url: str, folder: Path, documents: Sequence[str]) -> dict[str, Any]:
    """Return the bits per byte of the harness."""
    data, tasks, results = folder / "documents.jsonl", folder / "tasks", folder / "results"
    data.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    tasks.mkdir()
    (tasks / "task.yaml").write_text(_TASK.format(task=TASK, file=data))
    settings = {
        "base_url": f"{url}/v1/models/{MODEL}/v1/completions",
        "model": MODEL,
        "tokenizer_backend": "remote",
        "max_length": str(MAX_LENGTH),
        "num_concurrent": "4",
    }
    command = [
        harness, "--model", "local-completions",
        "--model_args", ",".join(f"{name}={value}" for name, value in settings.items()),
        "--tasks", TASK, "--include_path", tasks, "--output_path", results,
    ]  # fmt: skip
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "NO_PROXY": "*",
    }
    began_s = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, check=False, cwd=folder
    )
    if done.returncode:
        raise SystemExit(f"the harness failed:\n{done.stderr[-3000:]}")
    [file] = results.rglob("results_*.json")
    told = json.loads(file.read_text())
    figures = told["results"][TASK]
    return {
        "bits_per_byte": figures["bits_per_byte,none"],
        "byte_perplexity": figures["byte_perplexity,none"],
        "seconds": time.perf_counter() - began_s,
        "version": told.get("lm_eval_version"),
    }


if __name__ == "__main__":
    main()
