"""What is made of completions that an engine generates, of which the answers are given."""

from collections.abc import Sequence
from unittest.mock import Mock

import pytest

from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.requests import Completion, CompletionRequest, FinishReason
from nextchar.models.runtime.suggestions import Replaced, Suggester, Suggestion, SuggestionRequest
from nextchar.models.text.line_file import Lines
from nextchar.models.text.masks import Masks, ModelMasks
from nextchar.models.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("\n\t abcdefghilmnoprstuwyB")
NO_ENGINE = Mock(spec=[])


def suggested(
    prefix: str,
    texts: Sequence[str],
    *,
    is_records: bool = True,
    context: str | None = None,
    typos: int | None = None,
) -> tuple[CompletionRequest, list[Suggestion]]:
    """Return what is asked for, and the suggestions if these texts are generated, of 1, 2, 3 … bits."""
    suggester = Suggester(VOCABULARY, ModelMasks(Masks([])), None, is_records, "queries@1")
    steps = suggester.suggest(SuggestionRequest(prefix=prefix, context=context, typos=typos), NO_ENGINE)
    asked = next(steps)
    end: FinishReason = "line" if is_records else "word"
    completions = [Completion(text, end, bits, len(text), ()) for bits, text in enumerate(texts, 1)]
    with pytest.raises(StopIteration) as stopped:
        steps.send(completions)
    return asked, stopped.value.value


@pytest.mark.parametrize(
    ("prefix", "meant", "replaced"),
    [
        ("hotles", "hotels", Replaced(3, 5)),
        ("hotls", "hotels", Replaced(3, 4)),
        ("hottels", "hotels", Replaced(3, 4)),
        ("hotwls", "hotels", Replaced(3, 4)),
        ("xberlin", "berlin", Replaced(0, 1)),
        ("berli in", "berlin in", Replaced(5, 6)),
        ("berlinn", "berlin", Replaced(6, 7)),
    ],
)
def test_corrected_prefix_is_named(prefix: str, meant: str, replaced: Replaced) -> None:
    _, (exact, corrected) = suggested(prefix, [prefix + " air", meant + " bus"])
    assert (exact.text, exact.replaced) == (prefix + " air", None)
    assert (corrected.text, corrected.replaced) == (meant + " bus", replaced)
    assert (exact.probability, corrected.probability) == (0.5, 0.25)


def test_error_may_be_in_the_prefix_and_not_in_its_context() -> None:
    request, (one,) = suggested("hotles", ["hotels"], context="berlin")
    assert (request.prompt, request.typed) == ("berlin\thotles", 6)
    assert one.text == "hotels"


def test_context_that_a_line_spells_otherwise_is_left_out() -> None:
    lines = Lines.make({"Straße\tüber": 2, "Straße\tunter": 1})
    assert lines
    index = LineIndex(lines.with_weight(0.0))
    suggester = Suggester(VOCABULARY, ModelMasks(Masks([])), index, True, "signs@1")
    for prefix, text, replaced in (
        ("", "über", None),
        ("ü", "über", None),
        ("untr", "unter", Replaced(3, 4)),
    ):
        steps = suggester.suggest(SuggestionRequest(prefix=prefix, context="STRASSE"), NO_ENGINE)
        with pytest.raises(StopIteration) as stopped:
            next(steps)
        assert (stopped.value.value[0].text, stopped.value.value[0].replaced) == (text, replaced)


@pytest.mark.parametrize(
    ("prefix", "typos", "typed"),
    [
        ("hot", None, 0),
        (" hot", None, 0),
        ("hot ", None, 4),
        ("hotl", None, 4),
        ("hotl", 0, 0),
        ("ab " * 20, 1, 32),
    ],
)
def test_characters_in_which_an_error_is_looked_for(prefix: str, typos: int | None, typed: int) -> None:
    request, _ = suggested(prefix, [], typos=typos)
    assert request.typed == typed


def test_text_before_the_corrected_part_is_kept() -> None:
    prefix = "Berlin " * 8 + "hotles"
    request, (one,) = suggested(prefix, [prefix[-32:-6] + "hotels"])
    assert one.text == "Berlin " * 8 + "hotels"
    assert one.replaced == Replaced(59, 61)
    request, (one,) = suggested("a hotle\nis", ["isar"], typos=1)
    assert (request.typed, one.text) == (2, "a hotle\nisar")


def test_what_is_typed_is_not_suggested_again() -> None:
    _, found = suggested("hotel", ["hotel", "hotels", ""])
    assert [one.text for one in found] == ["hotels"]
    request, found = suggested("hotel", ["hotel", "hotel ", "hotels", ""], is_records=False)
    assert [one.text for one in found] == ["hotels"]
    assert request.stop == ("\n", "\r")


def ranked(prefix: str, lines: dict[str, int], generated: dict[str, float]) -> list[tuple[str, bool]]:
    """Return which texts are suggested if lines are preferred, and whether they exist."""
    index = Lines.make(lines)
    assert index
    suggester = Suggester(
        VOCABULARY,
        ModelMasks(Masks([])),
        LineIndex(index.with_weight(0.0)),
        is_records=True,
        reference="queries@1",
    )
    steps = suggester.suggest(SuggestionRequest(prefix=prefix, constrain="prefer"), NO_ENGINE)
    next(steps)
    with pytest.raises(StopIteration) as stopped:
        steps.send([Completion(text, "line", bits, len(text), ()) for text, bits in generated.items()])
    return [(one.text, one.exists) for one in stopped.value.value]


def test_probability_decides_between_lines_and_generated_texts() -> None:
    assert ranked("hot", {"hotel": 9, "hotlap": 5}, {"s": 2, "el": 1}) == [
        ("hotel", True),
        ("hotlap", True),
        ("hots", False),
    ]
    found = ranked("hotle", {"hotel rome": 1}, {"hotles": 0.1, "hotle air": 16})
    assert found == [("hotles", False), ("hotel rome", True), ("hotle air", False)]
    assert ranked("hot", {"air": 1}, {"el": 1}) == [("hotel", False)]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("isab", ["isabella", "isabellah", "isabeau"]),
        ("isabella", ["isabellah", "isabella", "isabeau"]),  # accepting what is typed changes nothing
        ("rosa", ["rosa maria", "rosa", "ana rosa", "ana rosa b"]),  # at the start, then inside
        ("iasbe", ["isabella", "isabellah", "isabeau"]),  # exchanged
    ],
)
def test_of_equal_lines_those_that_others_begin_with_come_first_then_longer_ones(
    prefix: str, expected: list[str]
) -> None:
    names = ["isabeau", "isabellah", "isabella", "rosa", "rosa maria", "ana rosa b", "ana rosa"]
    assert [text for text, _ in ranked(prefix, dict.fromkeys(names, 1), {})] == expected
    assert ranked("isab", {"isabella": 1, "isabellah": 2}, {})[0] == ("isabellah", True)  # by their counts


def test_generated_text_that_exists_is_three_times_as_likely() -> None:
    index = Lines.make({"hotel": 3})
    assert index
    suggester = Suggester(VOCABULARY, ModelMasks(Masks([])), LineIndex(index), True, "queries@1")
    steps = suggester.suggest(SuggestionRequest(prefix="hot", constrain="none"), NO_ENGINE)
    next(steps)
    with pytest.raises(StopIteration) as stopped:
        bits_of = {"s": 4, "el": 5, "air": 2}
        steps.send([Completion(text, "line", bits, len(text), ()) for text, bits in bits_of.items()])
    found = stopped.value.value
    assert [(one.text, one.count, one.exists) for one in found] == [
        ("hotair", 0, False),
        ("hotel", 3, True),
        ("hots", 0, False),
    ]
    air, hotel, hots = (one.probability for one in found)
    assert (air / hots, hotel / hots) == pytest.approx((4, 3 / 2))
    assert air + hotel + hots == pytest.approx((1 / 4 + 3 / 32 + 1 / 16) / (1 + 2 / 32))


def test_correction_comes_after_lines_that_begin_with_the_prefix() -> None:
    assert ranked("hotle", {"hotles": 1, "hotel": 10**6}, {"hotel": 0.1}) == [
        ("hotles", True),
        ("hotel", True),
    ]


def test_words_of_lines_are_what_a_mistyped_one_may_stand_for() -> None:
    lines = Lines.make({"hotels in rome": 2, "hostels": 1})
    assert lines
    suggester = Suggester(VOCABULARY, ModelMasks(Masks([])), LineIndex(lines), True, "queries@1")
    for typos, expected in ((None, ("hotels i",)), (0, ())):
        request = SuggestionRequest(prefix="hotles i", constrain="none", typos=typos)
        assert next(suggester.suggest(request, NO_ENGINE)).respelled == expected
