import pytest

from nextchar.models.errors import InvalidInput
from nextchar.models.text.line_columns import LineColumns, Record, has_counts

CITIES = "Berlin\t3426354\nBern\t121631\n\nBergen\t213585\nNew\tYork\t8175133"


def in_pieces(text: str, size: int = 7) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def test_counts_are_found_where_all_first_lines_have_them() -> None:
    records = list(LineColumns(None).records(in_pieces(CITIES)))
    assert records[0] == Record("Berlin", 3426354)
    assert records[-1] == Record("New\tYork", 8175133)
    texts = "".join(LineColumns(None).texts(in_pieces(CITIES)))
    assert texts == "Berlin\nBern\n\nBergen\nNew\tYork\n"


@pytest.mark.parametrize("text", ["a\t1\nb\nc\t3\n", "Rio\nBonn\nOslo\n", "a\t1\n", "a\tb\nc\td\ne\tf\n"])
def test_other_lines_are_text_as_a_whole(text: str) -> None:
    assert not has_counts(text.split("\n"))
    assert "".join(LineColumns(None).texts(in_pieces(text))).rstrip("\n") == text.rstrip("\n")
    records = LineColumns(None).records(in_pieces(text))
    assert [record.text for record in records] == text.split("\n")[:-1]


def test_source_may_come_before_or_after_the_count() -> None:
    text = "hello world\tanna\t3\nbye\tbob\t1\n"
    assert list(LineColumns(["text", "source", "count"]).records([text])) == [
        Record("hello world", 3, "anna"),
        Record("bye", 1, "bob"),
    ]
    assert "".join(LineColumns(["text", "source", "count"]).texts([text])) == "hello world\nbye\n"


@pytest.mark.parametrize("line", ["hello", "hello\tmany", "hello\t-1", "hello\t1.5", "hello\t٣"])
def test_malformed_column_is_named_with_its_line(line: str) -> None:
    with pytest.raises(InvalidInput, match="line 2 of the corpus") as error:
        list(LineColumns(["text", "count"]).records([f"a\t1\n{line}\n"]))
    assert error.value.code == "malformed_columns"
    with pytest.raises(InvalidInput, match="line 2 of the corpus"):
        list(LineColumns(["text", "count"]).texts([f"a\t1\n{line}\n"]))
