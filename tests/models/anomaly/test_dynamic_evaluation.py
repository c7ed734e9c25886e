import numpy as np
import pytest

from models.anomaly.dynamic_evaluation import DECAY, RATE, StreamPosition, read_adapting
from models.anomaly.scorer import Scorer
from models.errors import InvalidInput
from models.runtime.engine import Engine
from models.runtime.session import Network
from models.runtime.surprisal import stream_surprisal
from models.text.masks import Masks
from models.text.vocabulary import Vocabulary
from tests.models.runtime.networks import CHARACTERS, saved_model

UNITS = 12
VOCABULARY = Vocabulary(CHARACTERS)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(saved_model().file("model.onnx"))


def test_repeated_lines_become_expected(network: Network) -> None:
    lines = ["the fox jumps"] * 60
    plain, _ = stream_surprisal(network, VOCABULARY, lines, None)
    adapted, position = read_adapting(network, VOCABULARY, lines, StreamPosition(), units=UNITS)
    assert adapted[-1].bits.mean() < 0.98 * plain[-1].bits.mean()
    assert position.delta.shape == (UNITS, len(CHARACTERS))


def test_first_character_has_the_same_bits_as_without_adapting(network: Network) -> None:
    plain, state = stream_surprisal(network, VOCABULARY, ["abc#"], None)
    adapted, position = read_adapting(network, VOCABULARY, ["abc#"], StreamPosition(), units=UNITS)
    assert adapted[0].bits[0] == pytest.approx(plain[0].bits[0], abs=1e-4)
    assert adapted[0].entropy[0] == pytest.approx(plain[0].entropy[0], abs=1e-4)
    assert adapted[0].bits[3] == plain[0].bits[3]  # of an unknown character
    np.testing.assert_allclose(position.state, state, atol=1e-5)


def test_several_calls_equal_one_call(network: Network) -> None:
    lines = ["ab", "", "the fox", "ab"]
    whole, last = read_adapting(network, VOCABULARY, lines, StreamPosition(), units=UNITS)
    first, position = read_adapting(network, VOCABULARY, lines[:2], StreamPosition(), units=UNITS)
    rest, again = read_adapting(network, VOCABULARY, lines[2:], position, units=UNITS)
    for one, other in zip(whole, [*first, *rest], strict=True):
        np.testing.assert_allclose(one.bits, other.bits, atol=1e-4)
        assert one.end_bits == pytest.approx(other.end_bits, abs=1e-4)
    np.testing.assert_allclose(last.delta, again.delta, atol=1e-5)


def test_norm_of_the_delta_is_bounded(network: Network) -> None:
    _, position = read_adapting(network, VOCABULARY, ["zq" * 800], StreamPosition(), units=UNITS)
    longest_step = RATE * np.sqrt(UNITS) * np.sqrt(2)
    assert np.linalg.norm(position.delta) < longest_step / DECAY


def test_scorer_refuses_a_model_that_cannot_adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(saved_model())
    scorer = Scorer(engine, Masks(()))
    try:
        assert len(scorer.read_stream(["ab"], StreamPosition(), adapt=True)[0]) == 1
        monkeypatch.setattr("models.anomaly.scorer.MAX_WEIGHTS", 10)
        with pytest.raises(InvalidInput, match="too large to adapt"):
            scorer.read_stream(["ab"], StreamPosition(), adapt=True)
    finally:
        engine.close()
