"""What README shows works: its commands run against the real service, its answers have the shown fields."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nextchar import Client
from nextchar.answers import FINAL_STATUSES

from launcher.stack import Stack

ROOT = Path(__file__).parents[1]
_README = (ROOT / "README.md").read_text()
_BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", _README, flags=re.MULTILINE | re.DOTALL)
_SCRIPTS = [text for language, text in _BLOCKS if language == "sh"]


def _run(script: str, url: str) -> str:
    """Run a block as README has it, but at the stack's address, with a budget that suits a test."""
    script = script.replace("localhost:8000", url.removeprefix("http://")).replace(
        '"seconds": 60', '"steps": 10'
    )
    script = script.replace(".venv/bin/python", sys.executable).replace("python3 -c", f"{sys.executable} -c")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", "shopt -s expand_aliases\n" + script],
        cwd=ROOT,
        env={**os.environ, "NEXTCHAR_SERVER": url, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _answers(text: str) -> list[Any]:
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
        return isinstance(real, list) and _is_shown_truly(shown[0], real[0])
    return type(shown) is type(real)


def _wait_for_jobs(url: str) -> None:
    deadline = time.monotonic() + 90
    with Client(url) as client:
        while any(job["status"] not in FINAL_STATUSES for job in client.jobs()):
            assert time.monotonic() < deadline, "the job does not end"
            time.sleep(0.2)


def _curl_knows_json() -> bool:
    curl = shutil.which("curl")
    if curl is None:
        return False
    options = subprocess.run([curl, "--help", "all"], capture_output=True, text=True, check=False)
    return "--json" in options.stdout


@pytest.mark.skipif(not _curl_knows_json(), reason="needs curl 7.82 or newer, as README's calls do")
def test_calls_work_and_answer_as_shown(stack: Stack) -> None:
    ran = 0
    for (language, script), (answer_language, shown) in pairwise(_BLOCKS):
        if (language, answer_language) != ("sh", "json"):
            continue
        real = _answers(_run(script, stack.url))
        wanted = _answers(shown)
        assert len(real) == len(wanted)
        for one, other in zip(wanted, real, strict=True):
            assert _is_shown_truly(one, other), f"README shows {one}\nand the service answers {other}"
        _wait_for_jobs(stack.url)
        ran += 1
    assert ran == 3


def test_command_line_works_as_shown(stack: Stack) -> None:
    [script] = [script for script in _SCRIPTS if "alias nextchar" in script]
    shown = _run(script, stack.url)
    assert "readme@1 is trained" in shown
    assert "readme@1: 10 characters" in shown


def test_every_make_target_and_file_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "".join(_SCRIPTS), flags=re.MULTILINE)
    assert {"demo", "serve", "test", "lint"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert (ROOT / "docker-compose.yml").exists()
    for link in re.findall(r"\]\(([^)#]+)\)", _README):
        assert (ROOT / link).exists(), link


def test_the_tree_that_is_shown_is_there() -> None:
    [tree] = [text for language, text in _BLOCKS if not language]
    folders = re.findall(r"^(\s*)(\w+)/", tree, flags=re.MULTILINE)
    parent = ""
    for indentation, name in folders:
        parent = parent if indentation else name
        assert (ROOT / (f"{parent}/{name}" if indentation else name)).is_dir(), name
