"""OpenAI's Node SDK, as it is, against the real service; skipped where Node or the SDK is missing."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nextchar.launcher.stack import Stack

SCRIPT = Path(__file__).with_name("openai.mjs")
PACKAGES = Path(__file__).parents[2] / ".venv" / "node"


def run(script: Path, url: str) -> Any:
    """Run a script beside npm's packages; return what it prints."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine")
    if not (PACKAGES / "node_modules" / "openai").is_dir():
        pytest.skip("the npm package openai is not installed (tests/node)")
    done = subprocess.run(
        [node, "--input-type=module"],
        input=script.read_text(),
        cwd=PACKAGES,  # where a script from standard input looks for what it imports
        env=os.environ | {"NEXTCHAR_SERVER": url, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long  # the calls of test_openai_python.py in another language
def test_whole_way_from_a_file_to_a_deleted_model(stack: Stack) -> None:
    told = run(SCRIPT, stack.url)
    assert told["content"] == "red cherry.\n"
    assert (told["status"], told["model"]) == ("succeeded", "fruit-js@1")
    assert "metrics" in told["events"] and len(told["checkpoints"]) > 1
    assert len(told["text"]) == 12
    assert told["streamed"] == told["text"] == told["tokens"]
    assert told["usage"]["completion_tokens"] == 12 and told["usage"]["prompt_tokens"] == 6
    assert told["batch"] == ["completed", "one", told["text"]]
    assert told["refused"] == ["BadRequestError", "max_tokens"]
    assert told["deleted"] == [True, True] and told["gone"] == "NotFoundError"
