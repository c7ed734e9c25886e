"""What a mixture knows of the characters of a text."""

import numpy as np
import pytest

from nextchar.models.kernels.mixture_arguments import BRACKET_KIND, DELIMITER, KIND, LINE_END, QUOTE
from nextchar.models.runtime.mixture_learning import characters_of
from nextchar.models.text.vocabulary import Vocabulary

NAMES = ("Sophie Maria", "Anders, Jr.", "Wu")


def table(delimiter: str, *, lines: int = 30) -> str:
    cells = [(str(n), f'"{NAMES[n % 3]}"', "", f"{n % 7}.5") for n in range(lines)]
    return "\n".join(map(delimiter.join, cells)) + "\n"


@pytest.mark.parametrize("is_records", [False, True])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_have_a_delimiter_and_quotation_marks(delimiter: str, is_records: bool) -> None:
    text = table(delimiter)
    vocabulary = Vocabulary(text)
    characters = characters_of(vocabulary.encode(text), vocabulary, is_records=is_records)
    marks = dict(zip(vocabulary.characters, characters[1:, BRACKET_KIND].tolist(), strict=True))
    assert characters[0, BRACKET_KIND] == 1
    assert (marks[delimiter], marks['"'], marks["5"]) == (DELIMITER, QUOTE, 0)


@pytest.mark.parametrize(
    "text",
    [
        "the cat, a dog\n" * 30,  # more spaces
        "\n".join(",".join("abcdefgh"[: n % 4 + 1]) for n in range(40)),  # lines of many lengths
        table(",", lines=9),
        table(",").replace("\n", ";"),
        "name\n" * 30,
        "x",
    ],
)
def test_other_texts_are_no_tables(text: str) -> None:
    vocabulary = Vocabulary(text)
    characters = characters_of(vocabulary.encode(text), vocabulary, is_records=False)
    assert characters[0, BRACKET_KIND] == 0 and characters[:, BRACKET_KIND].max() < DELIMITER


def test_a_line_of_another_length_does_not_make_a_table_another_text() -> None:
    text = "# 2 columns, but a comment\n" + table(",")
    vocabulary = Vocabulary(text)
    ids = vocabulary.encode(text)
    characters = characters_of(ids, vocabulary, is_records=False)
    assert characters[0, BRACKET_KIND] == 1
    assert characters[ids[np.flatnonzero(ids == ids[-1])], KIND].tolist() == [LINE_END] * 31
