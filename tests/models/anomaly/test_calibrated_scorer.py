import json
import tracemalloc

import numpy as np
import pytest

from nextchar.app.scoring.routes import check_expected
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.line_scores import ScoreOptions
from nextchar.models.anomaly.scorer import Scorer
from nextchar.models.loaded_model import LoadedModel, suggester_of
from nextchar.models.runtime.engine import Engine
from nextchar.models.text.masks import Masks, ModelMasks
from tests.models.runtime.networks import CHARACTERS, saved_model


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    saved = saved_model(units=[12])
    engine, masks = Engine(saved), ModelMasks(Masks(("numbers",)))
    return LoadedModel(saved, engine, masks, Scorer(engine, masks), suggester_of(saved, masks))


def test_largest_answer_of_expected_characters_needs_little_memory(loaded: LoadedModel) -> None:
    scorer = CalibratedScorer(loaded, None, ScoreOptions("character", expected=20))
    text = "".join(np.random.default_rng(0).choice([*CHARACTERS], 14_285))
    check_expected([text], 20)
    [line] = scorer.read([text])
    tracemalloc.start()
    written = scorer.expected_json(line)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(written) > 10_000_000 and peak_bytes < 6 * len(written)
    expected = json.loads(written)
    assert len(expected) == len(text) and {len(position) for position in expected} == {20}


def test_expected_characters_are_those_of_the_engine(loaded: LoadedModel) -> None:
    scorer = CalibratedScorer(loaded, None, ScoreOptions("character", expected=3))
    [line] = scorer.read(["ab 123 é#"])
    expected = json.loads(scorer.expected_json(line))
    described = loaded.engine.text_logprobs(line.masked.text, top=3)
    assert [expected[line.masked.origin(position)] for position in range(len(described))] == [
        [{"character": c, "probability": round(float(np.exp(p)), 6)} for c, p in one.top] for one in described
    ]
    assert expected[4:6] == [[], []]  # the rest of the masked part


def test_cancelled_work_ends_at_the_next_step(loaded: LoadedModel) -> None:
    steps = 0

    def check() -> None:
        nonlocal steps
        steps += 1
        if steps > 5:
            raise InterruptedError

    scorer = CalibratedScorer(loaded, None, ScoreOptions("character", expected=3), check)
    with pytest.raises(InterruptedError):
        scorer.read(["ab" * 50_000])
    assert steps == 6
    steps = 0
    [line] = CalibratedScorer(loaded, None, ScoreOptions()).read(["ab" * 50_000])
    with pytest.raises(InterruptedError):
        scorer.expected_json(line)
    assert steps == 6
