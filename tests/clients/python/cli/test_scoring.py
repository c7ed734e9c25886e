"""The heat map of a text."""

from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer


def test_score_marks_characters_of_high_surprisal(run: Run) -> None:
    shown = run("score", "fake", "-", stdin="one Two\nthree\n").out
    lines = shown.split("\n")
    assert lines[0] == "fake@2: 14 characters, 1.39 bits per character, 20 bits in total"
    assert lines[lines.index("one Two⏎") + 1] == "    █"
    assert "13.0 bits  line 1" in shown


def test_score_of_a_long_text_shows_its_most_anomalous_lines(run: Run) -> None:
    text = "".join(f"line {'X' * (i == 70)}\n" for i in range(100))
    shown = run("score", "fake", "--top", "1", stdin=text).out
    assert "line 71, " in shown
    assert shown.count("⏎") == 1
    assert run("score", "fake", "--all", stdin=text).out.count("⏎") >= 100


def test_score_by_line_sends_lines(run: Run, server: FakeServer) -> None:
    shown = run("score", "fake", "--lines", stdin="one\n\nTwo\r\n").out
    assert server.bodies("POST", "/v1/models/fake/score")[0]["lines"] == ["one", "", "Two\r"]
    assert "line 3, " in shown


def test_input_that_is_not_utf8_names_the_byte(run: Run) -> None:
    outcome = run("score", "fake", stdin=b"abc\xff")
    assert (outcome.status, outcome.err) == (1, "nextchar: the text is not UTF-8: byte 0xff at offset 3\n")
