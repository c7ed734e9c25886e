"""A log and nothing else: trained with a name and no option, its later lines are hardly ever flagged."""

from collections.abc import Callable

import httpx
import pytest

from benchmarks.raw_logs import measure
from nextchar.launcher.stack import Stack
from tests.logs import LOGS

_RECIPE = {"preset": "tiny", "network": {"units": 64}, "budget": {"steps": 40}}


@pytest.mark.parametrize("name", ["syslog", pytest.param("counting_log", marks=pytest.mark.long)])
def test_later_lines_of_a_log_are_rarely_flagged_by_default(stack: Stack, name: str) -> None:
    with httpx.Client(base_url=stack.url, timeout=600) as http:
        found = measure(http, list(LOGS[name](2000)), name=f"default-{name}", seconds=30, **_RECIPE)
    assert found["masks"] and found["rate"] == 0.01
    assert found["flagged"] <= 0.05


@pytest.mark.long  # two more jobs of the same kind
def test_later_lines_of_an_ssh_log_are_rarely_flagged_by_default(
    stack: Stack, real_text: Callable[[str], str]
) -> None:
    lines = [line for line in real_text("openssh_2k.log").splitlines() if line]
    with httpx.Client(base_url=stack.url, timeout=600) as http:
        found = measure(http, lines, name="default-openssh", seconds=30, **_RECIPE)
        told = http.get(f"/v1/jobs/{http.get('/v1/jobs').json()['data'][0]['id']}/events").json()["data"]
        unmasked = measure(http, lines, name="unmasked-openssh", seconds=30, masks=[], **_RECIPE)
    assert found["flagged"] <= 0.05 and found["masks"]
    assert any(e["type"] == "message" and e["data"]["text"].startswith("masked, because") for e in told)
    assert unmasked["flagged"] > 0.05  # what the masks are for, even if repeats do not count
