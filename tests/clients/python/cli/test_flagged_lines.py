"""Lines are shown with their spans highlighted: of models of characters and of bytes, of any length."""

import io
import re

from rich.console import Console

from nextchar.cli.flagged_lines import LineView, decode_spans, explain, highlighted
from nextchar.cli.formatting import character_bits
from nextchar.lines import Line

_PLAIN = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), no_color=True, width=80)


def _span(start: int, end: int, expected: str | None = None) -> dict[str, object]:
    return {"start": start, "end": end, "bits": 9.0, "expected": expected}


def test_spans_are_highlighted_in_place() -> None:
    assert highlighted("a cat sat", [_span(2, 3), _span(6, 9)], _PLAIN).plain == "a ⟦c⟧at ⟦sat⟧"
    assert highlighted("fine", [], _PLAIN).plain == "fine"
    assert highlighted("a\x1b[2J", [_span(1, 2)], _PLAIN).plain == "a⟦␛⟧[2J"


def test_a_long_line_is_shown_by_its_beginning_and_its_spans() -> None:
    text = "b" * 1000 + "ODD" + "e" * 1000
    shown = highlighted(text, [_span(1000, 1003)], _PLAIN).plain
    assert shown == f"{'b' * 30} … {'b' * 30}⟦ODD⟧{'e' * 30} … 970 more characters"
    everything = highlighted(text, [_span(0, len(text))], _PLAIN).plain
    assert len(everything) <= len(text) + 40


def test_spans_of_a_model_of_bytes_become_characters() -> None:
    line = Line(1, "é→!".encode())
    text, spans = decode_spans(line, {"spans": [_span(2, 5)]}, "bytes")
    assert (text, spans[0]["start"], spans[0]["end"]) == ("é→!", 1, 2)
    cut = Line(1, b"a\xe2\x86!")  # the beginning of a character
    text, spans = decode_spans(cut, {"spans": [_span(2, 4)]}, "bytes")
    assert (text, spans[0]["start"], spans[0]["end"]) == ("a\ufffd\ufffd!", 2, 4)
    assert len(character_bits(cut.data, [1.0] * 4)) == len(text)
    assert character_bits(line.data, [1, 2, 3, 4, 5, 6]) == [3, 12, 6]


def test_explanations_name_the_expected_text() -> None:
    spans = [_span(0, 1, "C"), _span(1, 2, ""), _span(2, 3)]
    assert explain("cat", spans) == ["at 'c': 'C' was expected", "at 'a': nothing was expected here"]
    likely = [[{"character": "C", "probability": 0.5}, {"character": "b", "probability": 0.25}]]
    assert explain("cat", spans[:1], likely) == ["at 'c': 'C' 50.0%, 'b' 25.0%"]


def test_expected_characters_are_those_of_the_right_byte() -> None:
    line = Line(1, "Größe x".encode())
    text, spans = decode_spans(line, {"spans": [_span(8, 9)]}, "bytes")
    likely = [[{"character": c, "probability": 0.5}] for c in "012345678"]
    assert explain(text, spans, likely) == ["at 'x': '8' 50.0%"]


def test_a_flagged_line_is_shown_with_its_file_and_its_number_if_it_has_one() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=80)
    view = LineView(console, alphabet="characters", has_several_files=True)
    record = {"text": "a cat", "p_value": 0.001, "spans": [_span(2, 3, "b")], "reason": '"cat" at the end'}
    view.show_flagged(Line(7, b"a cat", file="x.log"), record)
    view.show_flagged(Line(0, b"a cat", file="x.log"), record)
    rows = [row.split() for row in re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()]
    explanation = ["at", "'c':", "'b'", "was", "expected"]
    shown = ["1", "in", "1,000", "a", "⟦c⟧at"]
    reason = ['"cat"', "at", "the", "end"]
    assert rows == [["x.log"], ["7", *shown], reason, explanation, shown, reason, explanation]
