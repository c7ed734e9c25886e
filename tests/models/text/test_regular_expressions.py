"""Regular expressions take linear time on any text, and match what their plain forms match."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.models.anomaly import alerts
from nextchar.models.anomaly.alerts import template_of
from nextchar.models.text import kind_detection
from nextchar.models.text.events import Opener, events_of, fingerprint
from nextchar.models.text.kind_detection import detect_kind
from nextchar.models.text.log_detection import LineSample
from nextchar.models.text.templates import Templates

LENGTH = 200_000  # quadratic time would be an hour


@pytest.mark.timeout(30)
@pytest.mark.parametrize("line", ["word" + " " * LENGTH, "\t" * LENGTH, "1" * LENGTH + "g", "a" * LENGTH])
def test_a_long_line_does_not_hold_the_process(line: str) -> None:
    Templates.fit([line])
    template_of(line)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("line", [".,+-" * 500, "1" * 1000 + "x,1"])
def test_a_text_of_long_lines_does_not_hold_the_process(line: str) -> None:
    sample = LineSample()
    sample.feed(f"{line}\n" * 400)
    detect_kind(sample)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "part", ["(", "(a", "a.", "$$", "at $$", "a ", " ", "#1 ", 'File "', "::", "a$Error"]
)
def test_an_event_of_long_lines_does_not_hold_the_process(part: str) -> None:
    lines = ["09:00:01 up", *[part * (2_000 // len(part))] * 500, part * LENGTH, "9" * LENGTH] * 2
    opener = Opener.learn(lines) or Opener()
    for event in events_of(opener, lines):
        fingerprint(event)


@given(st.text('01aAxf.,+- "g', max_size=12))
def test_fast_forms_match_what_plain_forms_match(text: str) -> None:
    plain = re.compile(r"[\d.,+-]*\d")
    assert kind_detection._NUMBER.sub("#", text) == plain.sub("#", text)
    plain = re.compile(r"[\s\"]*[-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?%?[\s\"]*")
    assert bool(kind_detection._NUMBER_CELL.fullmatch(text)) == bool(plain.fullmatch(text))
    plain = re.compile(r"\b(?:0[xX])?[0-9A-Fa-f]*\d[0-9A-Fa-f]*\b|\d+")
    assert alerts._VARIABLE.sub("#", text) == plain.sub("#", text)
