import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.models.text.vocabulary import (
    UNKNOWN_ID,
    Alphabet,
    Normalizer,
    Vocabulary,
    is_normalization_boundary,
    normalize,
)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_decode_undoes_encode_for_known_text(text: str) -> None:
    vocabulary = Vocabulary(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(st.text(), st.text())
def test_a_character_has_id_zero_exactly_when_the_vocabulary_lacks_it(alphabet: str, text: str) -> None:
    vocabulary = Vocabulary(alphabet)
    for character, i in zip(text, vocabulary.encode(text), strict=True):
        assert (i == UNKNOWN_ID) == (character not in alphabet)


@pytest.mark.parametrize("alphabet", ["characters", "bytes"])
@given(st.text(st.characters(max_codepoint=255)), st.text())
def test_unknown_characters_are_replaced_as_decoding_replaces_them(
    alphabet: Alphabet, known: str, text: str
) -> None:
    vocabulary = Vocabulary(known, alphabet)
    assert vocabulary.replace_unknown(text) == vocabulary.decode(vocabulary.encode(text))


def test_ids_follow_code_points_and_start_at_one() -> None:
    vocabulary = Vocabulary("éba\U0001f600")
    assert vocabulary.characters == "abé\U0001f600"
    assert vocabulary.encode("abé\U0001f600").tolist() == [1, 2, 3, 4]
    assert len(vocabulary) == 5


def test_unknown_characters_are_listed_once() -> None:
    assert Vocabulary("abc").unknown("azbzy") == ["y", "z"]


def test_decomposed_text_is_composed() -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    assert len(decomposed) == 2
    assert normalize(decomposed) == "é"


def test_a_normalization_boundary_never_composes_with_what_precedes_it() -> None:
    joining = set()
    for point in range(0x110000):
        parts = unicodedata.decomposition(chr(point)).split()
        if parts and not parts[0].startswith("<"):
            joining.update(int(part, 16) for part in parts[1:])
    assert [f"U+{p:04X}" for p in sorted(joining) if is_normalization_boundary(chr(p))] == []
    first_of_each = {chr(p): unicodedata.normalize("NFD", chr(p))[0] for p in range(0x110000)}
    reordered = {
        c: d for c, d in first_of_each.items() if is_normalization_boundary(c) and unicodedata.combining(d)
    }
    assert reordered == {}


@given(st.lists(st.text(st.sampled_from("ae\u0301\u0327\u1100\u1161\u11a8\uac00é漢\nか\u3099\u09c7\u09be"))))
def test_normalizing_in_pieces_equals_normalizing_the_whole(pieces: list[str]) -> None:
    normalizer = Normalizer()
    normalized = [normalizer.feed(piece) for piece in pieces] + [normalizer.finish()]
    assert "".join(normalized) == normalize("".join(pieces))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 3))
def test_decoding_bytes_in_pieces_never_splits_a_code_point(text: str, size: int) -> None:
    vocabulary = Vocabulary(map(chr, range(256)), "bytes")
    characters = vocabulary.to_characters(text)
    assert len(characters) == len(text.encode())
    assert vocabulary.decode(vocabulary.encode(characters)) == characters
    decoder = vocabulary.text_decoder()
    decoded = [decoder.feed(characters[start : start + size]) for start in range(0, len(characters), size)]
    assert text.startswith(decoded[0] if decoded else "")
    assert "".join(decoded) + decoder.feed("", final=True) == text == vocabulary.to_text(characters)


def test_invalid_and_unknown_bytes_become_replacement_characters() -> None:
    vocabulary = Vocabulary("a\xc3\xa9", "bytes")
    assert vocabulary.to_text("a\xc3") == "a\ufffd"
    assert vocabulary.to_text(vocabulary.decode([1, 0, 3, 2])) == "a\ufffdé"
    assert vocabulary.unknown(vocabulary.to_characters("aü")) == ["\xbc"]
    assert [vocabulary.label(c) for c in "a\xc3"] == ["a", "\\xc3"]


def test_all_bytes_of_a_multibyte_letter_are_word_characters() -> None:
    vocabulary = Vocabulary("a", "bytes")
    assert all(map(vocabulary.is_word_character, vocabulary.to_characters("aß_à")))
    assert not vocabulary.is_word_character(" ")
    assert not Vocabulary("a").is_word_character("\xa9")


@pytest.mark.parametrize("known", ["", "a", "abé漢", "\x00\U0010ffff"])
def test_ids_are_the_places_in_the_vocabulary_in_any_type_and_others_are_unknown(known: str) -> None:
    vocabulary = Vocabulary(known)
    for text in ("", "abé漢xyz\x00\U0010ffff\ud800", "zz", "a\x7f"):
        expected = [sorted(known).index(c) + 1 if c in known else 0 for c in text]
        for ids, dtype in (
            (vocabulary.encode(text), np.int32),
            (vocabulary.encode_as(np.dtype(np.uint8), text), np.uint8),
        ):
            assert (ids.tolist(), ids.dtype) == (expected, dtype)
