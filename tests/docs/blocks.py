"""The fenced blocks of a page, and how a test runs them.

Blocks of the kinds in `RUN` are run; all others are shown only. Commands that a test must not run (they start
a service, or need a file of the reader's) are blocks of the kind `console`, with a prompt.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUN = ("sh", "python")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_SHORTER = {r"--seconds \d+": "--steps 10", r'"seconds": \d+': '"steps": 10'}  # a budget that suits a test
_LONGEST_S = 100


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind (the word behind the fence) and its text."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    return [Block(*found) for found in _FENCED.findall(page.read_text("utf-8"))]


def run(block: Block, *, url: str, folder: Path) -> str:
    """Run a block as it stands, but against the service at `url`; return its standard output.

    Args:
        block: of a kind in `RUN`.
        url: what `localhost:8000` stands for.
        folder: the working directory.

    Raises:
        AssertionError: the block failed; with the block and its output.
    """
    text = block.text.replace("localhost:8000", url.removeprefix("http://"))
    for pattern, shorter in _SHORTER.items():
        text = re.sub(pattern, shorter, text)
    command = {"sh": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}
    done = subprocess.run(
        command[block.kind],
        cwd=folder,
        env={**os.environ, "PATH": _path(folder), "NEXTCHAR_SERVER": url, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, f"{text}\nfailed with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _path(folder: Path) -> str:
    """Return a PATH with this Python's programs first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
