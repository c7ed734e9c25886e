"""Tables of labeled lines are read as people write them, and refused when they cannot be understood."""

import pytest

from nextchar.cli.evaluation import InvalidTable, read_labeled_lines


def test_kinds_are_found_by_their_column() -> None:
    found = read_labeled_lines("1\tsqli\ta' or 1\n0\tnorm\tplain\n0\tnorm\ta\tb\n1\tsqli\tx\r\n\n")
    assert found.lines == ["a' or 1", "plain", "a\tb", "x\r"]
    assert found.without_carriage_returns().lines == ["a' or 1", "plain", "a\tb", "x"]
    assert found.anomalous == [True, False, False, True]
    assert found.kinds == ["sqli", "norm", "norm", "sqli"]


def test_lines_keep_their_numbers_in_the_file() -> None:
    assert read_labeled_lines("label\ttext\n\n0\ta\n \n1\tb\n").numbers == [3, 5]


def test_a_tab_in_every_text_is_no_column_of_kinds() -> None:
    text = "".join(f"{i % 2}\tpart {i}\trest\n" for i in range(20))
    assert read_labeled_lines(text).lines[3] == "part 3\trest"
    assert read_labeled_lines(text, has_kinds=True).lines[3] == "rest"
    assert read_labeled_lines("0\ta\tb\n1\ta\tc\n", has_kinds=False).lines == ["a\tb", "a\tc"]


@pytest.mark.parametrize("label", ["0", "-", "Normal", "OK", "benign", "False"])
def test_usual_labels_of_normal_lines_are_known(label: str) -> None:
    assert read_labeled_lines(f"label\ttext\n{label}\ta\nx\tb\n").anomalous == [False, True]


def test_named_labels_go_before_the_usual_ones() -> None:
    assert read_labeled_lines("0\ta\nx\tb\ny\tc\n", normal=["x", "y"]).anomalous == [True, False, False]


@pytest.mark.parametrize(
    ("text", "normal", "sentence"),
    [
        ("", (), "empty"),
        ("0\ta\nonly a label\n", (), "line 2 has no text"),
        ("good?\ta\nbad\tb\n", (), "none of them is known to be normal"),
        ("0\ta\nok\tb\n", (), "all of them are known to be normal"),
        ("0\ta\n1\tb\n", ("2",), "none of them is normal; name"),
    ],
)
def test_what_cannot_be_understood_is_refused(text: str, normal: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InvalidTable, match=sentence):
        read_labeled_lines(text, normal=normal)
