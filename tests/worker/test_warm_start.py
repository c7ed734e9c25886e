"""Starting from a saved model: the same network on the same text, a larger vocabulary on a new one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.base import base_references, find_base
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.errors import NotFound, Unavailable
from nextchar.models.runtime.session import Network
from nextchar.models.saved_model import Card, describe_files
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker.evaluation import bits_per_character, graph_of, saved_files
from nextchar.worker.hooks import Hooks
from nextchar.worker.prepared_text import Text
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit
from nextchar.worker.warm_start import WarmStart, choose_base

NETWORK = NetworkConfig(layers=2, units=24, embedding=5)
OLD = Text.split("the cat sat on the mat; the dog sat on the log. " * 40, validation_fraction=0.1)
NEW = Text.split("Ein Hund saß auf der Matte; the cat sat on the mat. " * 40, validation_fraction=0.1)


def _fit(
    text: Text, *, steps: int, rate: float = 8e-3, start: WarmStart | None = None
) -> tuple[Result, list[float]]:
    bits: list[float] = []

    def event(kind: str, data: dict) -> None:
        if kind == "metrics":
            bits.append(data["validation_bits_per_character"])

    training = TrainingConfig(rows=4, window=10, learning_rate=rate, budget=Budget(steps=steps), seed=3)
    weights = start.expand(text.vocabulary) if start else None
    return fit(NETWORK, training, text, cores=2, start=weights, hooks=Hooks(event=event)), bits


@pytest.fixture(scope="module")
def trained() -> Result:
    return _fit(OLD, steps=300)[0]


@pytest.fixture(scope="module")
def start(trained: Result) -> WarmStart:
    models = Models(open_blobs("memory:///"))
    return WarmStart.load(models, _published(models, saved_files(trained.network)))


def _published(models: Models, files: dict[str, bytes], characters: str = OLD.vocabulary.characters) -> str:
    card = Card(
        id="model_0197c2a1b3c4d5e6f7a8b",
        name="old",
        created_at=0,
        network=NETWORK,
        training=TrainingConfig(),
        characters=characters,
        parameters=1,
        files=describe_files(files),
    )
    return models.publish(card, files).reference


def test_weights_come_back_from_the_graph_as_they_went_in(trained: Result, start: WarmStart) -> None:
    weights = trained.network.weights()
    assert set(start.weights) == set(weights)
    for name, value in start.weights.items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)


def test_training_on_the_same_text_begins_with_the_loss_that_the_old_model_ended_with(
    trained: Result, start: WarmStart
) -> None:
    result, bits = _fit(OLD, steps=2, rate=1e-12, start=start)
    assert bits[0] == pytest.approx(trained.best_bits, abs=1e-4)
    assert result.best_bits == pytest.approx(trained.best_bits, abs=1e-4)


def test_the_new_text_does_not_change_what_the_network_computes(start: WarmStart) -> None:
    text = Text.split(
        "the log sat on the cat; " + "aaaa;;;; " * 100,
        validation_fraction=0.1,
        required=OLD.vocabulary.characters,
    )
    assert text.vocabulary == OLD.vocabulary
    result, _ = _fit(text, steps=1, rate=1e-12, start=start)
    ids = OLD.validation[:40][:, None]
    ours, theirs = (
        network.step(ids, network.initial_state())[0]
        for network in (Network(graph_of(result.network)), Network(stateful_lstm_graph(start.weights)))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_the_grown_vocabulary_keeps_every_old_character_with_its_weights(start: WarmStart) -> None:
    old = OLD.vocabulary.characters
    grown_text = Text.split("ÄÖ" + "the mat " * 40, validation_fraction=0.1, required=old)
    vocabulary = grown_text.vocabulary
    assert set(vocabulary.characters) == set(OLD.vocabulary.characters) | {"Ä", "Ö"}
    grown, old = start.expand(vocabulary), start.weights
    for character in OLD.vocabulary.characters:
        new_id, old_id = vocabulary.encode(character)[0], OLD.vocabulary.encode(character)[0]
        np.testing.assert_array_equal(grown["embedding"][new_id], old["embedding"][old_id])
        np.testing.assert_array_equal(grown["dense/kernel"][:, new_id], old["dense/kernel"][:, old_id])
        assert grown["dense/bias"][new_id] == old["dense/bias"][old_id]
    np.testing.assert_array_equal(grown["embedding"][0], old["embedding"][0])
    for new_id in vocabulary.encode("ÄÖ"):
        np.testing.assert_allclose(grown["embedding"][new_id], old["embedding"][1:].mean(0), rtol=1e-6)
        assert grown["dense/bias"][new_id] < old["dense/bias"][1:].min()


def test_new_characters_hardly_disturb_the_old_ones(start: WarmStart) -> None:
    strange = Vocabulary([*OLD.vocabulary.characters, *map(chr, range(0x4E00, 0x4E00 + 3000))])
    before, after = (
        Network(stateful_lstm_graph(start.weights)),
        Network(stateful_lstm_graph(start.expand(strange))),
    )
    ids, new_ids = (
        vocabulary.encode(OLD.vocabulary.decode(OLD.validation[:]))
        for vocabulary in (OLD.vocabulary, strange)
    )
    lead, new_lead = OLD.train[-50:], strange.encode(OLD.vocabulary.decode(OLD.train[-50:]))
    lost = bits_per_character(after, new_ids, before=new_lead) - bits_per_character(before, ids, before=lead)
    assert -1e-4 < lost < 0.05


PROSE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def test_a_base_model_is_chosen_for_a_text_of_its_kind_alone() -> None:
    text = Text.split(PROSE, validation_fraction=0.1)
    choice = choose_base(text, threads=1)
    assert choice and choice.reference == "base/english@1"
    assert choice.bits < choice.ppmd_bits
    assert f"{choice.bits:.2f} bits per character on a sample" in choice.sentence
    random = np.random.default_rng(1)
    for characters in ("ACGT", "0123456789\n", "".join(map(chr, range(0x4E00, 0x4F00)))):
        far = "".join(random.choice(list(characters), 3000))
        assert choose_base(Text.split(far, validation_fraction=0.1), threads=1) is None


SPANISH = """En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un
hidalgo de los de lanza en astillero, adarga antigua, rocín flaco y galgo corredor. Una olla de algo más vaca
que carnero, salpicón las más noches, duelos y quebrantos los sábados, lantejas los viernes, algún palomino de
añadidura los domingos, consumían las tres partes de su hacienda. El resto della concluían sayo de velarte,
calzas de velludo para las fiestas, con sus pantuflos de lo mesmo, y los días de entresemana se honraba con su
vellorí de lo más fino. Tenía en su casa una ama que pasaba de los cuarenta, y una sobrina que no llegaba a
los veinte, y un mozo de campo y plaza, que así ensillaba el rocín como tomaba la podadera. Frisaba la edad de
nuestro hidalgo con los cincuenta años; era de complexión recia, seco de carnes, enjuto de rostro, gran
madrugador y amigo de la caza."""


def test_a_base_model_is_chosen_for_spanish() -> None:
    choice = choose_base(Text.split(SPANISH, validation_fraction=0.1), threads=1)
    assert choice and choice.reference == "base/spanish@1"


def test_the_base_model_of_logs_predicts_lines_of_servers_best() -> None:
    log = "".join(
        f"Mar {n % 28 + 1:2} 0{n % 10}:{n * 7 % 60:02}:{n * 13 % 60:02} web{n % 3} sshd[{n * 977 % 9000}]:"
        f" Failed password for root from 10.0.{n % 7}.{n * 31 % 250} port {n * 337 % 60000} ssh2\n"
        for n in range(40)
    )
    text = Text.split(log, validation_fraction=0.1)

    def bits(reference: str) -> float:
        base = find_base(reference)
        graph = stateful_lstm_graph(WarmStart.of_base(base).expand(text.vocabulary))
        return bits_per_character(Network(graph), text.train[100:], before=text.train[:100])

    assert min(base_references(), key=bits) == "base/logs@1"


def test_a_base_model_brings_its_characters_but_no_placeholders() -> None:
    base = replace(find_base("base/english"), characters="abⓣⓞ")
    assert WarmStart.of_base(base).required == "ab"


def test_a_new_text_is_learned_faster_than_from_nothing(start: WarmStart) -> None:
    text = Text.split(
        NEW.vocabulary.decode(NEW.train[:]), validation_fraction=0.1, required=OLD.vocabulary.characters
    )
    (_, ours), (_, fresh) = _fit(text, steps=60, start=start), _fit(text, steps=60)
    assert ours[-1] < fresh[-1] - 0.2


def test_a_model_that_is_gone_is_named() -> None:
    with pytest.raises(NotFound, match="model old@1, which this job starts from, was deleted") as caught:
        WarmStart.load(Models(open_blobs("memory:///")), "old@1")
    assert caught.value.code == "start_from_deleted"


@pytest.mark.parametrize(
    "damaged",
    [
        lambda _: {"model.onnx": b"no graph"},
        lambda files: {"model.keras": files["model.keras"]},
        lambda files: {"model.onnx": files["model.onnx"][:1000]},
    ],
    ids=["no graph", "no file", "half a graph"],
)
def test_a_model_that_cannot_be_read_is_refused_by_name(
    trained: Result, damaged: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    models = Models(open_blobs("memory:///"))
    reference = _published(models, damaged(saved_files(trained.network)))
    with pytest.raises(Unavailable, match="training cannot start from model old@1") as caught:
        WarmStart.load(models, reference)
    assert caught.value.code == "model_damaged"


def test_a_model_whose_card_has_other_characters_than_its_graph_is_refused(trained: Result) -> None:
    models = Models(open_blobs("memory:///"))
    reference = _published(models, saved_files(trained.network), characters="ab")
    with pytest.raises(Unavailable, match="its card another number"):
        WarmStart.load(models, reference)
