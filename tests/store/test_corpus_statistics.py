"""What is counted of a text while it is uploaded."""

from pathlib import Path
from typing import Any

import pytest

from nextchar.models.config import MINIMUM_CHARACTERS
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.store import corpus as corpus_statistics
from nextchar.store.corpus import CorpusStatistics, Encoding, Upload


def summary(*pieces: bytes, encoding: Encoding = "utf-8") -> dict[str, Any]:
    statistics = CorpusStatistics(encoding)
    for piece in pieces:
        statistics.feed(piece)
    statistics.feed(b"", final=True)
    return statistics.summary()


@pytest.mark.parametrize(
    ("text", "lines", "longest"),
    [
        ("a", 1, 1),
        ("a\n", 1, 1),
        ("ab\n\nabc", 3, 3),
        ("abcd\nab\n", 2, 4),
        ("\n", 1, 0),
        ("a\nbcd\nef", 3, 3),
    ],
)
def test_lines_are_counted_whatever_the_pieces(text: str, lines: int, longest: int) -> None:
    for size in (1, 2, 3, 100):
        data = text.encode()
        found = summary(*(data[at : at + size] for at in range(0, len(data), size)))
        assert (found["lines"], found["longest_line"], found["characters"]) == (lines, longest, len(text))
        assert found["distinct_characters"] == len(set(text)) and found["sample"] == text


def test_the_sample_is_the_beginning_of_the_text() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(400))
    for size in (7, 300, 10_000):
        data = text.encode()
        assert summary(*(data[at : at + size] for at in range(0, len(data), size)))["sample"] == text[:300]
    assert summary(("é" * 200).encode(), encoding="bytes")["sample"] == "é" * 150
    assert summary(b"a" + ("é" * 200).encode(), encoding="bytes")["sample"] == "a" + "é" * 149


@pytest.mark.parametrize(
    ("pieces", "offset"),
    [
        ((b"ab\xff",), 2),
        ((b"ab", b"c\xffd"), 3),
        ((b"ab\xc3", b"\xff"), 2),
        ((b"\xe4\xbd", b"\xa0ab\x80"), 5),
    ],
)
def test_the_first_byte_that_is_not_utf_8_is_named(pieces: tuple[bytes, ...], offset: int) -> None:
    with pytest.raises(InvalidInput, match=f"at offset {offset} ") as caught:
        summary(*pieces)
    assert (caught.value.code, caught.value.param) == ("corpus_not_utf8", "body")


def test_a_text_that_ends_within_a_character_is_refused() -> None:
    with pytest.raises(InvalidInput, match="byte 0xe4 at offset 2 "):
        summary(b"ab\xe4\xbd")


def test_so_many_marks_belong_to_one_letter_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_statistics, "_MAX_HELD_CHARACTERS", 10)
    assert summary(("a" + "\u0316" * 9).encode())["characters"] == 10
    with pytest.raises(InvalidInput, match="around byte 21 more than 10 characters") as caught:
        summary(("a" + "\u0316" * 10).encode())
    assert caught.value.code == "corpus_not_text"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("aaaa", "repeats one character"),
        (
            "\ufeffab",
            "starts with a byte order mark, which counts as a character; to train without it, remove",
        ),
        ("ab\r\n", "1 carriage return: "),
        ("ab\r\ncd\r\n", "2 carriage returns: "),
        ("ab\0", "1 NUL characters"),
        ("ab\ufffd\ufffd", "2 replacement characters (U+FFFD): a conversion lost text; convert the original"),
        ("".join(map(chr, range(97, 118))), "21 characters occur fewer than five times and will be"),
        ("".join(map(chr, range(97, 118))) * 4, "21 characters occur fewer than five times"),
    ],
)
def test_a_text_that_will_disappoint_is_warned_of(text: str, warning: str) -> None:
    too_short, found = summary(text.encode())["warnings"]
    assert warning in found and too_short.startswith("too short to train on: ")


@pytest.mark.parametrize(
    "text", ["ab\n", "ab\ufeff", "".join(map(chr, range(97, 117))), "".join(map(chr, range(97, 118))) * 5]
)
def test_other_texts_have_no_warnings(text: str) -> None:
    repeated = text * -(-MINIMUM_CHARACTERS // len(text))
    assert [one for one in summary(text.encode())["warnings"] if "too short" not in one] == []
    assert summary(repeated.encode())["warnings"] == []


@pytest.mark.parametrize("encoding", ["utf-8", "bytes"])
def test_a_text_too_short_to_train_on_is_warned_of_at_upload(encoding: Encoding) -> None:
    text = bytes(97 + i % 20 for i in range(MINIMUM_CHARACTERS))
    assert summary(text, encoding=encoding)["warnings"] == []
    assert summary(text[:-1], encoding=encoding)["warnings"] == [
        f"too short to train on: {MINIMUM_CHARACTERS - 1} of at least {MINIMUM_CHARACTERS} characters"
    ]


def test_bytes_are_neither_decoded_nor_recognized() -> None:
    found = summary(b"\xff\xfe\n", b"\xff", encoding="bytes")
    assert (found["characters"], found["distinct_characters"], found["lines"]) == (4, 3, 2)
    assert "kind" not in found
    assert summary(b"\xff" * MINIMUM_CHARACTERS, encoding="bytes")["warnings"] == [
        "the bytes are all the same; there is nothing to learn"
    ]


@pytest.mark.parametrize("pieces", [(b"12345678",), (b"1234", b"5678"), (b"1234567", b"8")])
def test_a_text_may_be_as_large_as_its_limit(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    for _ in range(2):  # the folder is there already
        with Upload(tmp_path / "a" / "b", limit_bytes=8) as upload:
            for piece in pieces:
                upload.feed(piece)
            corpus = upload.finish()
            assert (corpus.bytes, upload.path.read_bytes()) == (8, b"12345678")
        assert not upload.path.exists()
    with Upload(tmp_path, limit_bytes=7) as upload, pytest.raises(TooLarge, match="larger than 7 bytes"):
        for piece in pieces:
            upload.feed(piece)


@pytest.mark.parametrize(
    ("pieces", "source"),
    [
        (("é".encode("utf-16-le"),), "windows-1252"),
        ((b"\xff\xfea\x00",), "utf-16"),
        ((b"\xfe\xff\x00a",), "utf-16"),
        ((b"\xffa",), "windows-1252"),
        ((b"ab", b"\xff\xfea\x00"), "windows-1252"),
        ((b"ab\xff\xfe",), "windows-1252"),
    ],
)
def test_the_advice_names_utf_16_where_the_text_starts_with_its_mark(
    pieces: tuple[bytes, ...], source: str
) -> None:
    with pytest.raises(InvalidInput, match=f"iconv -f {source} -t utf-8"):
        summary(*pieces)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("a\x1b[31m", "1 escape character: "),
        ("a\x1b[31mb\x1b[0m", "2 escape characters: "),
        ("abcdefgh\0\0", "2 NUL characters; the text may be UTF-16"),
        ("abcdefghij\0\0", "2 NUL characters; is this a text?"),
        ("a\x00", "1 NUL characters; the text may be UTF-16"),
    ],
)
def test_characters_that_are_no_text_are_warned_of(text: str, warning: str) -> None:
    _, found = summary(text.encode())["warnings"]
    assert found.startswith(warning)
