"""The index of a job's lines: what is counted, what is withheld, and the weight of the network."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nextchar.models.config import SuggestionConfig
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.text import line_file
from nextchar.models.text.line_columns import Record
from nextchar.models.text.line_file import Lines
from nextchar.worker.lines import Counted, learned_weight
from nextchar.worker.prepared_text import Text
from tests.models.runtime.networks import Floats


def indexed(*records: Record, **config: object) -> dict[str, int]:
    counted = Counted.of(records, SuggestionConfig(**config))  # type: ignore[arg-type]
    assert counted
    lines = counted.lines()
    return {lines.text(i): int(lines.counts[i]) for i in range(len(lines))} if lines else {}


def test_lines_that_repeat_are_counted() -> None:
    assert indexed(Record("a"), Record("b", 5), Record("a"), Record("x" * 1001)) == {"a": 2, "b": 5}


def test_lines_below_the_minimum_count_are_left_out_in_all_their_forms() -> None:
    records = [Record("Secret"), Record("Common"), Record("common"), Record("SECRET")]
    assert indexed(*records, minimum_count=3) == {}
    assert indexed(*records, Record("common"), minimum_count=3) == {"Common": 1, "common": 2}


def test_rare_lines_are_told_as_they_stand_in_the_corpus() -> None:
    records = [Record("Secret"), Record("Common"), Record("common"), Record("Bad", 5)]
    counted = Counted.of(records, SuggestionConfig(minimum_count=2, exclude=["bad"]))
    assert counted and counted.rare_lines() == ["Secret"]


def test_lines_of_too_few_sources_are_left_out_however_often_they_occur() -> None:
    columns = ["text", "source"]
    records = [Record("mine", 1, "anna")] * 9 + [Record("ours", 1, "anna"), Record("ours", 1, "bob")]
    assert indexed(*records, columns=columns, minimum_sources=2) == {"ours": 2}


def test_excluded_lines_are_left_out_and_recognized() -> None:
    config = SuggestionConfig(exclude=["Bad"], exclude_patterns=["^x"], minimum_count=2)
    counted = Counted.of([Record("bad", 9), Record("xy", 9), Record("good", 9), Record("rare")], config)
    lines = counted and counted.lines()
    assert lines
    index = LineIndex(Lines.load(lines.dump()))
    assert [index.lines.text(i) for i in range(len(index.lines))] == ["good"]
    assert [text for text in ("BAD", "xyz", "Rare", "good", "other") if index.is_hidden(text)] == [
        "BAD", "xyz", "Rare"
    ]  # fmt: skip


def test_more_lines_than_an_index_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record("ab"), Record("bc"), Record("bc"), Record("cd")]
    assert Counted.of(records, SuggestionConfig())
    for limit, most in (("MAX_LINES", 2), ("MAX_CHARACTERS", 5)):
        with monkeypatch.context() as patch:
            patch.setattr(line_file, limit, most)
            assert Counted.of(records, SuggestionConfig()) is None


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["count", "text"]},
        {"columns": ["text", "text"]},
        {"minimum_sources": 2},
        {"minimum_count": 0},
    ],
)
def test_contradicting_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SuggestionConfig(**options)  # type: ignore[arg-type]


class Network:
    """Knows that after any character another one is likely, and the others are not."""

    def __init__(self, likely: list[int], size: int) -> None:
        self.V = size
        self._logits = np.zeros(size, np.float32)
        self._logits[likely] = 5.0

    def initial_state(self, rows: int = 1) -> Floats:
        """Return a state that is never used."""
        return np.zeros((rows, 1), np.float32)

    def step(self, ids: NDArray[np.int32], state: Floats, first: int = 0) -> tuple[Floats, Floats]:
        """Return the same logits."""
        return np.tile(self._logits, (len(ids) - first, len(state), 1)), state


def weight_of(counts: dict[str, int], likely: str) -> float:
    split = Text.split("".join(f"{line}\n" for line in [*counts] * 2), validation_fraction=0.5)
    lines = Lines.make(counts)
    assert lines
    network = Network(split.vocabulary.encode(likely).tolist(), len(split.vocabulary))
    return learned_weight(LineIndex(lines), network, split)


def test_weight_follows_what_predicts_held_out_lines() -> None:
    words = [f"the {a}{b}" for a in "abcdefgh" for b in "pqrstuvw"]
    frequent = {word: 50 if word[-1] in "pqrs" else 1 for word in words}
    assert weight_of(frequent, "tuvw") == 0.0  # the network is wrong
    assert weight_of(dict.fromkeys(words, 2), "pqrs") == 0.0  # and no better than the counts
    assert weight_of({word: 3 if word[-1] in "pqrs" else 1 for word in words}, "pqrs") > 0.5
    assert weight_of(dict.fromkeys(words, 1), "pqrs") == 0.0  # each line once: no order is better
    assert weight_of({"ab": 4}, "b") == 0.0  # too few to learn from


def test_two_lists_put_together_are_ranked_by_counts_alone() -> None:
    words = [f"the {a}{b}" for a in "abcdefghijkl" for b in "pqrstuvw"]
    twice = {word: 2 if word[-1] in "pqrs" else 1 for word in words}
    assert weight_of(twice, "pqrs") == 0.0  # as many as 48 occur twice, and none three times
    drawn = twice | {word: 3 for word in words if word[-1] in "pq"} | dict.fromkeys(words[:3], 9)
    assert weight_of(drawn, "pqrs") > 0.5
