"""The fenced blocks of a page, and how a test runs them.

Blocks of the kinds in `RUN` are run; all others are only shown. What a test cannot run, because it starts a
service or needs a file of the reader's, is a block of the kind `console`, with a prompt.
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
_SHORTER = {  # budgets, networks and a text that suit a test
    r"--preset \w+ ": "",
    r"(?<!--architecture nth_char )--(seconds|steps) \d+": "--preset tiny --units 32 --steps 4",
    r"--seconds \d+": "--steps 4",  # presets are LSTMs
    r'"budget": \{"seconds": \d+\}': '"preset": "tiny", "network": {"units": 32}, "budget": {"steps": 4}',
    r"topics\.values\(\)": "list(topics.values())[:12]",
}
_TIMEOUT_S = 500


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind (the word after the fence) and its text."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    return [Block(kind, text) for kind, text in _FENCED.findall(page.read_text("utf-8"))]


def run(block: Block, *, url: str, folder: Path) -> str:
    """Run a block as it stands, but against the service at `url`; return its standard output.

    Args:
        block: of a kind in `RUN`.
        url: what `localhost:8000` stands for.
        folder: the working directory.

    Raises:
        AssertionError: the block failed. The message has the block and its output.
    """
    text = block.text.replace("localhost:8000", url.removeprefix("http://"))
    for pattern, shorter in _SHORTER.items():
        text = re.sub(pattern, shorter, text)
    shell = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.kind]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*shell, text],
        cwd=folder,
        env={**os.environ, "PATH": path, "NEXTCHAR_SERVER": url, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{text}\nfailed with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
