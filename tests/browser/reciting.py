"""Networks whose answers are obvious: an LSTM of hand-set weights that remembers the last character only.

What follows a character is a table of ours, so a test can say what the ghost text will be, and how sure the
model is of it. The runtime sees a network like any other.
"""

from collections.abc import Mapping

import numpy as np

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.pack import pack
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.model_networks import FLOAT32_FILE, INT8_FILE
from nextchar.models.saved_model import Card, SavedModel, describe_files
from nextchar.models.text.vocabulary import Vocabulary

Followers = Mapping[str, Mapping[str, float]]

_UNLIKELY = 1e-7  # of each character that the table does not name: too little to be sampled


def reciting(name: str, text: str) -> SavedModel:
    """Return a model that goes on as `text` does, from its end back to its start.

    Every character of `text` is there once, so that each has one that follows it.
    """
    return following(name, _successors(text))


def packed(name: str, text: str) -> bytes:
    """Return the file of a model that goes on as `text` does, for the runtime without a service."""
    return pack(following(name, _successors(text), has_int8=True))


def _successors(text: str) -> Followers:
    assert len(set(text)) == len(text), "a character with two followers"
    return {a: {b: 1.0} for a, b in zip(text, text[1:] + text[0], strict=True)}


def following(name: str, followers: Followers, *, has_int8: bool = False) -> SavedModel:
    """Return a model that goes on from a character with those of its table, by their probabilities."""
    vocabulary = Vocabulary("".join({*followers, *(b for row in followers.values() for b in row)}))
    V = len(vocabulary)
    table = np.full((V, V), _UNLIKELY)
    for a, row in followers.items():
        for b, probability in row.items():
            table[vocabulary.encode(a)[0], vocabulary.encode(b)[0]] = probability
    # The cell takes its input and forgets all else, so h is the last character, one-hot.
    shut, opened = np.full(V, -20.0), np.full(V, 20.0)
    weights = {
        "embedding": np.eye(V),
        "lstm_0/kernel": np.concatenate([np.zeros((V, 2 * V)), 20 * np.eye(V), np.zeros((V, V))], axis=1),
        "lstm_0/recurrent": np.zeros((V, 4 * V)),
        "lstm_0/bias": np.concatenate([opened, shut, np.zeros(V), opened]),
        "dense/kernel": np.log(table) / np.tanh(np.tanh(20)),
        "dense/bias": np.zeros(V),
    }
    floats = {k: v.astype(np.float32) for k, v in weights.items()}
    files = {FLOAT32_FILE: stateful_lstm_graph(floats)}
    if has_int8:
        files[INT8_FILE] = quantize_lstm(floats)
    card = Card(
        id=f"model_{name}",
        name=name,
        created_at=1795563600,
        network=NetworkConfig(layers=1, units=V, embedding=max(2, V)),
        training=TrainingConfig(),
        characters=vocabulary.characters,
        parameters=V * V,
        report={"validation_bits_per_character": 0.1},
        files=describe_files(files),
    )
    return SavedModel(card, files.__getitem__)
