"""What README shows works: its commands run against the real service, its responses have the shown fields."""

import json
import re
import shutil
import subprocess
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from nextchar import Client
from nextchar.launcher.stack import Stack
from nextchar.types import FINAL_STATUSES
from tests.docs.blocks import ROOT, Block, blocks, run
from tests.waiting import eventually

_README = blocks(ROOT / "README.md")
_COMPLETIONS = blocks(ROOT / "docs" / "reference" / "completions.md")  # its calls use README's model
_COMMANDS = "".join(block.text for block in _README if block.kind == "console")


def _responses(text: str) -> list[Any]:
    """Return the JSON values that stand one after another, less what README leaves out with an …."""
    text = re.sub(r",?\s*…", "", text).strip()
    found = []
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found


def _is_shown_truly(shown: Any, real: Any) -> bool:
    """Whether the real answer has everything shown, with values of the same kind."""
    if isinstance(shown, dict):
        return all(key in real and _is_shown_truly(value, real[key]) for key, value in shown.items())
    if isinstance(shown, list):
        if not shown or not real:
            return shown == real
        return isinstance(real, list) and _is_shown_truly(shown[0], real[0])
    return type(shown) is type(real)


def _wait_for_jobs(url: str) -> None:
    with Client(url) as client:
        eventually(
            lambda: all(job["status"] in FINAL_STATUSES for job in client.jobs()),
            within_s=400,
            what="the jobs are over",
        )


def _curl_knows_json() -> bool:
    curl = shutil.which("curl")
    if curl is None:
        return False
    options = subprocess.run([curl, "--help", "all"], capture_output=True, text=True, check=False)
    return "--json" in options.stdout


@pytest.mark.skipif(not _curl_knows_json(), reason="needs curl 7.82 or newer, as README's calls do")
def test_calls_work_and_respond_as_shown(stack: Stack) -> None:
    compared = 0
    shown = _README + _COMPLETIONS
    for block, response in zip_longest(shown, shown[1:], fillvalue=Block("", "")):
        if block.kind != "sh" or "curl" not in block.text:
            continue
        real = _responses(run(block, url=stack.url, folder=ROOT))
        _wait_for_jobs(stack.url)
        if response.kind != "json":
            continue
        expected = _responses(response.text)
        assert len(real) == len(expected)
        for one, other in zip(expected, real, strict=True):
            assert _is_shown_truly(one, other), f"the page shows {one}\nand the service returns {other}"
        compared += 1
    assert compared == 4


def test_command_line_works_as_shown(stack: Stack) -> None:
    [block] = [block for block in _README if block.kind == "sh" and "nextchar train" in block.text]
    shown = run(block, url=stack.url, folder=ROOT)
    assert "readme@1 is trained" in shown
    assert "readme@1: 10 characters" in shown


def test_every_make_target_and_file_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\$ make (\w+)", _COMMANDS, flags=re.MULTILINE)
    assert {"demo", "serve", "test", "lint"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert (ROOT / "docker-compose.yml").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_tree_that_is_shown_is_there(page: str) -> None:
    [tree] = [block.text for block in blocks(ROOT / page) if not block.kind and "worker/" in block.text]
    parents: dict[int, Path] = {}  # by the length of the indentation
    for indentation, names in re.findall(r"^( *)((?:[\w/]+/ ?)+)", tree, flags=re.MULTILINE):
        shallower = [path for length, path in parents.items() if length < len(indentation)]
        for name in names.split():
            folder = (shallower[-1] if shallower else ROOT) / name
            assert folder.is_dir(), folder
            parents = {n: path for n, path in parents.items() if n < len(indentation)} | {
                len(indentation): folder
            }
