"""Small models of each kind, whose weights are random and large, so that each counts."""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.networks import Weights
from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.anomaly.calibration import load as load_calibration
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.runtime import mixture
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.model_networks import FLOAT32_FILE, INT8_FILE, load_networks
from nextchar.models.saved_model import Card, SavedModel, describe_files
from nextchar.models.text import mask_values
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.line_file import FILE as LINES_FILE
from nextchar.models.text.line_file import Lines
from nextchar.models.text.mask_values import MaskValues
from nextchar.models.text.masks import Masks
from nextchar.models.text.vocabulary import Alphabet, Vocabulary
from nextchar.store.calibrations import MODEL_FILE
from nextchar.worker.calibration import anomaly_files
from nextchar.worker.prepared_text import Text
from tests.models.runtime.mixtures import learned_for

E = 8
_WORDS = (
    "the",
    "cat",
    "(sat)",
    "on",
    "a",
    "mat,",
    "17",
    "times;",
    "naïve",
    "café",
    "über",
    "—",
    "日本語",
    "so",
)


@dataclass(frozen=True)
class Kind:
    """What a model is."""

    layers: int
    units: int
    kind: TextKind = "text"
    alphabet: Alphabet = "characters"
    has_mixture: bool = True
    adapts: bool = True
    characters: int = 6_000
    masks: tuple[str, ...] = ()
    has_contexts: bool = False
    is_table: bool = False


KINDS = {
    "text": Kind(2, 24),
    "records": Kind(1, 16, kind="records"),
    "fields": Kind(1, 14, kind="records", has_contexts=True),
    "table": Kind(1, 12, is_table=True),
    "bytes": Kind(1, 5, alphabet="bytes"),
    "network alone": Kind(3, 12, has_mixture=False),
    "log": Kind(
        1, 18, kind="log", masks=("timestamp", "ip", "hex", r"user=\w+", "long_numbers"), characters=40_000
    ),
    "fixed weights": Kind(1, 20, adapts=False, characters=500),
}


def log_lines(count: int, seed: int = 0) -> list[str]:
    """Return lines of a log, whose kinds are more and less frequent."""
    random = np.random.default_rng(seed)
    lines = []
    for second in np.cumsum(random.integers(4, size=count)).tolist():
        pid, port = (int(random.integers(*limits)) for limits in ((100, 30_000), (1024, 65_536)))
        address = f"10.0.{pid % 7}.{port % 250}"
        user = ("ann", "bob", "eve", "zoë")[pid % 4]
        texts = (
            f"sshd[{pid}]: Accepted password for user={user} from {address} port {port}",
            f"sshd[{pid}]: Failed password for user={user} from {address} port {port} ssh2",
            f"cron[{pid}]: (root) CMD run-parts /etc/cron.hourly",
            f"kernel: eth0: link at 0x{pid:08x} is {('up', 'down')[port % 2]}, {port % 30} packets",
            f"sshd[{pid}]: Connection closed by {address} [preauth]",
            f"disk {pid % 3} is {port % 100}% full",
        )
        line = texts[min(int(random.integers(len(texts))), int(random.integers(len(texts))))]
        lines.append(f"2024-01-{1 + second // 86400:02d}T10:{second // 60 % 60:02d}:{second % 60:02d} {line}")
    return lines


def text_of(kind: Kind) -> str:
    """Return the text that a model of a kind is trained on."""
    if kind.masks:
        return "\n".join(log_lines(kind.characters // 70)) + "\n"
    if kind.is_table:
        rows = ((n, _WORDS[n % 14], n * 7 % 90) for n in range(kind.characters // 20))
        return "".join(f'{n},"{word}, {number}",,{number}.5\n' for n, word, number in rows)
    random, separators = np.random.default_rng(kind.units), " " * 8 + "\n"
    words, parts = random.integers(len(_WORDS), size=kind.characters // 5), []
    for word, at in zip(words, random.integers(len(separators), size=len(words)), strict=True):
        parts.append(_WORDS[word] + separators[at])
    lines = "".join(parts).split("\n")
    return (
        "\n".join(f"{('shop', 'café au lait')[len(line) % 2]}\t{line}" for line in lines)
        if kind.has_contexts
        else "\n".join(lines)
    )


@cache
def saved(name: str) -> SavedModel:
    """Return the model of KINDS with a name."""
    kind = KINDS[name]
    text, masks = text_of(kind), Masks(kind.masks)
    vocabulary = Vocabulary("", kind.alphabet)
    characters = masks.replace(vocabulary.to_characters(text))
    vocabulary = Vocabulary(characters, kind.alphabet)
    weights = _weights(kind.layers, kind.units, len(vocabulary))
    files = {FLOAT32_FILE: stateful_lstm_graph(weights), INT8_FILE: quantize_lstm(weights)}
    if kind.has_mixture:
        learned = learned_for(characters, vocabulary, is_records=kind.kind == "records")
        if not kind.adapts:
            learned = mixture.without_adaptation(learned)
        files[mixture.FILE] = mixture.dump(vocabulary.encode(characters), learned)
    if kind.kind == "records":
        counts = Counter(text.splitlines())
        lines = Lines.make({line: 1 + counts[line] * (len(line) % 3) for line in counts if line})
        assert lines
        files[LINES_FILE] = lines.with_weight(0.5).dump()
    if kind.masks:
        files[mask_values.FILE] = MaskValues.fit(masks, text.splitlines()).dump()
    card = Card(
        id=f"model_{kind.units}",
        name=name.replace(" ", "-"),
        created_at=0,
        network=NetworkConfig(layers=kind.layers, units=kind.units, embedding=E),
        training=TrainingConfig(),
        alphabet=kind.alphabet,
        kind=kind.kind,
        characters=vocabulary.characters,
        masks=kind.masks,
        parameters=1,
        files=describe_files(files),
    )
    model = SavedModel(card, files.__getitem__)
    if kind.kind == "log":
        files |= _anomaly_files(model, characters)
        model = SavedModel(card.model_copy(update={"files": describe_files(files)}), files.__getitem__)
    return model


def _anomaly_files(model: SavedModel, characters: str) -> dict[str, bytes]:
    """Return what scores are made with, with a calibration by the last quarter of the text."""
    networks = load_networks(model, threads=1).networks
    text = Text.split(characters, validation_fraction=0.25, alphabet="characters")
    return anomaly_files(
        networks["float32", "network"],
        text,
        int8=networks["int8", "network"],
        is_log=True,
        purpose="anomalies",
    )


def calibration_of(name: str) -> Calibration:
    """Return the calibration of a model of a log."""
    return load_calibration(saved(name).file(MODEL_FILE), where="the calibration")[0]


def _weights(layers: int, units: int, size: int) -> Weights:
    random = np.random.default_rng(units)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (size, E)}
    for i in range(layers):
        shapes |= {f"lstm_{i}/kernel": (units if i else E, 4 * units), f"lstm_{i}/bias": (4 * units,)}
        shapes |= {f"lstm_{i}/recurrent": (units, 4 * units)}
    shapes |= {"dense/kernel": (units, size), "dense/bias": (size,)}
    return {name: random.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
