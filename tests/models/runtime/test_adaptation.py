import numpy as np
import pytest

from models.errors import InvalidInput
from models.runtime.adaptation import DECAY, RATE, read_adapting
from models.runtime.engine import Engine
from models.runtime.scoring import read_on
from models.runtime.session import Network
from models.text.vocabulary import Vocabulary
from tests.models.runtime.networks import CHARACTERS, saved_model

UNITS = 12
VOCABULARY = Vocabulary(CHARACTERS)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(saved_model().file("model.onnx"))


def test_a_stream_that_repeats_itself_becomes_expected(network: Network) -> None:
    lines = ["the fox jumps"] * 60
    plain, _ = read_on(network, VOCABULARY, lines, None)
    adapted, memory = read_adapting(network, VOCABULARY, lines, None, units=UNITS)
    assert adapted[-1].bits.mean() < 0.98 * plain[-1].bits.mean()
    assert memory.change.shape == (UNITS, len(CHARACTERS))


def test_first_character_is_read_as_without_adapting(network: Network) -> None:
    plain, state = read_on(network, VOCABULARY, ["abc#"], None)
    adapted, memory = read_adapting(network, VOCABULARY, ["abc#"], None, units=UNITS)
    assert adapted[0].bits[0] == pytest.approx(plain[0].bits[0], abs=1e-4)
    assert adapted[0].entropy[0] == pytest.approx(plain[0].entropy[0], abs=1e-4)
    assert adapted[0].bits[3] == plain[0].bits[3]  # an unknown character costs what it costs
    np.testing.assert_allclose(memory.state, state, atol=1e-5)


def test_going_on_equals_one_call(network: Network) -> None:
    lines = ["ab", "", "the fox", "ab"]
    whole, last = read_adapting(network, VOCABULARY, lines, None, units=UNITS)
    first, memory = read_adapting(network, VOCABULARY, lines[:2], None, units=UNITS)
    rest, again = read_adapting(network, VOCABULARY, lines[2:], memory, units=UNITS)
    for one, other in zip(whole, [*first, *rest], strict=True):
        np.testing.assert_allclose(one.bits, other.bits, atol=1e-4)
        assert one.end_bits == pytest.approx(other.end_bits, abs=1e-4)
    np.testing.assert_allclose(last.change, again.change, atol=1e-5)


def test_what_is_learned_is_bounded(network: Network) -> None:
    _, memory = read_adapting(network, VOCABULARY, ["zq" * 800], None, units=UNITS)
    longest_step = RATE * np.sqrt(UNITS) * np.sqrt(2)
    assert np.linalg.norm(memory.change) < longest_step / DECAY


def test_engine_refuses_what_cannot_adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(saved_model())
    try:
        assert len(engine.read_adapting(["ab"], None)[0]) == 1
        monkeypatch.setattr("models.runtime.engine.MOST_WEIGHTS", 10)
        with pytest.raises(InvalidInput, match="too large to adapt"):
            engine.read_adapting(["ab"], None)
    finally:
        engine.close()
