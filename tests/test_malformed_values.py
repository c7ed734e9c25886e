"""A malformed value among masked ones is found; a model from before the check scores as it did."""

from collections.abc import Iterator

import pytest

import nextchar
from nextchar.models.loaded_model import masks_of
from nextchar.models.saved_model import SavedModel
from nextchar.models.text import mask_values
from tests.malformed_values import MALFORMED, MASKS, WELL_FORMED, log


@pytest.fixture(scope="module")
def model() -> Iterator[nextchar.Model]:
    """A model of a log in which all values are masked."""
    text = "".join(f"{line}\n" for line in log(2000))
    options = {"preset": "tiny", "network": {"units": 64}, "budget": {"steps": 60}}
    with nextchar.train(text, progress=False, masks=list(MASKS), **options) as trained:
        yield trained


def flagged(model: nextchar.Model, lines: list[str]) -> list[bool]:
    found = model.score(lines, false_alarms=0.01, repeats="flag")  # a dozen malformed lines are many alike
    return [bool(score.anomalous) for score in found]


def test_every_malformed_value_is_found(model: nextchar.Model) -> None:
    assert len(MALFORMED) >= 10
    found = flagged(model, [line for line, _ in MALFORMED.values()])
    assert dict(zip(MALFORMED, found, strict=True)) == dict.fromkeys(MALFORMED, True)


def test_well_formed_values_and_later_lines_are_not_flagged(model: nextchar.Model) -> None:
    assert not any(flagged(model, list(WELL_FORMED[:3])))  # the others have digits of another mask
    assert sum(flagged(model, log(3000)[2000:])) <= 10  # 1 %


def test_the_malformed_value_is_shown_as_what_is_anomalous(model: nextchar.Model) -> None:
    for line, value in (MALFORMED["octet"], MALFORMED["month"], MALFORMED["port"]):
        [score] = model.score([line])
        start = line.index(value)
        assert any(span.start < start + len(value) and start < span.end for span in score.spans or [])


def test_a_model_without_the_file_masks_every_value(model: nextchar.Model) -> None:
    saved = model._saved
    files = {name: file for name, file in saved.card.files.items() if name != mask_values.FILE}
    assert len(files) < len(saved.card.files)
    older = masks_of(SavedModel(saved.card.model_copy(update={"files": files}), saved.file))
    for line, value in MALFORMED.values():
        assert value not in older.mask(line).text
