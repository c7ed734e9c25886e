import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from models.vocabulary import UNKNOWN_ID, Vocabulary, normalize


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_decode_undoes_encode_for_known_text(text: str) -> None:
    vocabulary = Vocabulary(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(st.text(), st.text())
def test_a_character_has_id_zero_exactly_when_the_vocabulary_lacks_it(alphabet: str, text: str) -> None:
    vocabulary = Vocabulary(alphabet)
    for character, i in zip(text, vocabulary.encode(text), strict=True):
        assert (i == UNKNOWN_ID) == (character not in alphabet)


def test_ids_follow_code_points_and_start_at_one() -> None:
    vocabulary = Vocabulary("éba\U0001f600")
    assert vocabulary.characters == "abé\U0001f600"
    assert vocabulary.encode("abé\U0001f600").tolist() == [1, 2, 3, 4]
    assert len(vocabulary) == 5


def test_unknown_characters_are_named_once_each() -> None:
    assert Vocabulary("abc").unknown("azbzy") == ["y", "z"]


def test_composed_and_decomposed_text_become_the_same_characters() -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    assert len(decomposed) == 2
    assert normalize(decomposed) == "é"
