"""Random networks for tests: their weights, the same network in plain NumPy, and saved models of them."""

import string
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.runtime import mixture
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.saved_model import Card, SavedModel, describe_files
from nextchar.models.text import line_file
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text import templates as templates_file
from nextchar.models.text import word_ngram as word_ngram_file
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.line_file import Lines
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.models.text.word_ngram import WordNgrams
from tests.models.runtime.mixtures import learned_for

CHARACTERS = "\n " + string.ascii_lowercase + "'.,é"
Floats = NDArray[np.float32]


def random_weights(V: int, E: int, units: list[int], *, seed: int = 0) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (V, E)}
    width = E
    for i, h in enumerate(units):
        shapes |= {
            f"lstm_{i}/kernel": (width, 4 * h), f"lstm_{i}/recurrent": (h, 4 * h), f"lstm_{i}/bias": (4 * h,)
        }  # fmt: skip
        width = h
    shapes |= {"dense/kernel": (width, V), "dense/bias": (V,)}
    return {
        name: random.normal(0, 2 / np.sqrt(shape[0]) if "kernel" in name else 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def numpy_step(weights: Mapping[str, Floats], ids: NDArray[np.int32], state: Floats) -> tuple[Floats, Floats]:
    """Map ids (T, B), state (B, S) to logits (T, B, V), state (B, S), with a loop."""
    layers = sum(name.endswith("/recurrent") for name in weights)
    widths = [weights[f"lstm_{i}/recurrent"].shape[0] for i in range(layers) for _ in "hc"]
    parts = np.split(state, np.cumsum(widths)[:-1], axis=1)
    logits = []
    for step_ids in ids:
        x = weights["embedding"][step_ids]
        for i in range(layers):
            h, c = parts[2 * i], parts[2 * i + 1]
            z = x @ weights[f"lstm_{i}/kernel"] + h @ weights[f"lstm_{i}/recurrent"]
            into, forget, cell, out = np.split(z + weights[f"lstm_{i}/bias"], 4, axis=1)
            c = _sigmoid(forget) * c + _sigmoid(into) * np.tanh(cell)
            x = _sigmoid(out) * np.tanh(c)
            parts[2 * i], parts[2 * i + 1] = x, c
        logits.append(x @ weights["dense/kernel"] + weights["dense/bias"])
    return np.stack(logits), np.concatenate(parts, axis=1)


def saved_model(
    *,
    units: list[int] | None = None,
    characters: str = CHARACTERS,
    int8: bool = False,
    seed: int = 0,
    kind: TextKind | None = None,
    name: str = "random",
    mixed_text: str | None = None,
    lines: Mapping[str, int] | None = None,
) -> SavedModel:
    """Return a model of a random network; with `mixed_text`, mixed with the experts of that text."""
    units = units or [12, 12]
    characters = "".join(sorted(characters))
    weights = random_weights(len(characters) + 1, 5, units, seed=seed)
    files = {"model.onnx": stateful_lstm_graph(weights)}
    if int8:
        files["model.int8.npz"] = quantize_lstm(weights)
    if mixed_text is not None:
        vocabulary = Vocabulary(characters)
        ids = vocabulary.encode(mixed_text)
        files[ngram_file.FILE] = ngram_file.dump(ngram_file.ngram_of(ids, vocabulary))
        files[word_ngram_file.FILE] = word_ngram_file.dump(WordNgrams.fit(mixed_text))
        files[templates_file.FILE] = templates_file.dump(
            templates_file.Templates.fit(templates_file.last_lines(mixed_text))
        )
        files[mixture.FILE] = mixture.dump(
            ids, learned_for(mixed_text, vocabulary, is_records=kind == "records")
        )
    if lines:
        index = Lines.make(lines)
        assert index
        files[line_file.FILE] = index.dump()
    card = Card(
        id=f"model_{name}",
        name=name,
        version=1,
        created_at=0,
        network=NetworkConfig(layers=len(units), units=units[0], embedding=5),
        training=TrainingConfig(),
        characters=characters,
        kind=kind,
        parameters=1,
        files=describe_files(files),
    )
    return SavedModel(card, files.__getitem__)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
