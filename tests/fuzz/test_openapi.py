"""The short form of `make fuzz`: the cases that do not depend on chance."""

import re
from pathlib import Path

import pytest

from tests.fuzz import openapi


@pytest.mark.timeout(300)
def test_no_answer_is_outside_the_description(tmp_path: Path, clean_redis_url: str) -> None:
    with openapi.service(tmp_path / "data", clean_redis_url) as (url, known):
        status, printed = openapi.run(
            url, known, seconds=240, seed=20261127, folder=tmp_path, phases=("examples", "coverage")
        )
    assert status == 0, printed[-8000:]
    assert re.search(r"Selected: 9\d/9\d", printed), printed  # it has found the operations
