"""A saved model on one page, in plain NumPy: read it, predict the next character, sample, score a text.

The service computes the same with compiled kernels, for many texts at a time; tests compare both. It is the
default architecture, without masks, with the last characters alone of docs/engineering/mixture.md's contexts.

Shapes: B rows, E embedding, H units, L layers, V vocabulary. Id 0 is any unknown character, never predicted.
"""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Model:
    """A model, as `read` returns it."""

    characters: str  # the n-th has id n
    table: Array  # (V, E) the embedding, normalized
    lstms: list[list[Array]]  # of each layer: kernel (E or H, 4H), recurrent kernel (H, 4H), bias (4H,)
    dense: list[Array]  # kernel (H, V), bias (V,)
    mixture: dict[str, Array]  # arrays of mixture.npz; empty if there is none

    def encode(self, text: str) -> list[int]:
        """Return the id of each character of a text."""
        return [self.characters.find(character) + 1 for character in unicodedata.normalize("NFC", text)]

    def initial_state(self, rows: int = 1) -> Array:
        """Return h and c of each layer before the first character: zeros (L, 2, B, H)."""
        return np.zeros((len(self.lstms), 2, rows, len(self.dense[0])), np.float32)

    def step(self, ids: Array, state: Array) -> tuple[Array, Array]:
        """Let the network read ids (B,) in a state (L, 2, B, H); return logits (B, V) and the next state."""
        x, after = self.table[ids], np.empty_like(state)  # x is (B, E), then each layer's output (B, H)
        for layer, (kernel, recurrent, bias) in enumerate(self.lstms):
            h, c = state[layer]  # (B, H) each
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)  # (B, H) each
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            x = sigmoid(o) * np.tanh(c)
            after[layer] = x, c
        return x @ self.dense[0] + self.dense[1], after

    def mix(self, logits: Array, ids: list[int]) -> Array:
        """Return log-probabilities (V,) of the mixture after `ids`, from the network's logits (V,)."""
        p, sides, text = np.ones(len(logits)), dict[int, Array](), self.mixture["text"]
        share = (np.bincount(text, minlength=len(p)) + 0.5) / len(text)  # (V,)
        known, read = (np.append([0] * 6, part) for part in (text, ids))
        at, recent = (7 + np.flatnonzero(part[7:]) for part in (known, read))  # where a character is known
        for length, c in enumerate(ids[:-7:-1], 1):  # of a context, and its first character
            at, recent = at[known[at - length] == c], recent[(read[recent - length] == c) & (c > 0)]
            counts = np.bincount(known[at], minlength=len(p))  # (V,) of what followed
            rest = max(1, int(np.count_nonzero(counts))) / 2
            counts += 8 * np.bincount(read[recent][-32:], minlength=len(p))
            share = share if length == 5 else (counts + rest * share) / (counts.sum() + rest)  # interpolated
        first, last = self.mixture["weights"][:, [38, 45]], self.mixture["last_weights"][:, 0] / 5
        for node, parts in reversed([*enumerate(self.mixture["children"])]):  # of a tree; ids are negative
            sides[node] = np.array([sides[c].any(0) if c > 0 else np.arange(len(p)) == -c for c in parts])
        for node, (left, right) in sorted(sides.items()):  # parents first
            n = np.array([[q @ left, q @ right] for q in (share, np.exp(logits - logits[1:].max()))])
            z = np.diff(np.log(n + [[1e-7], [1e-9]] * n.sum(1, keepdims=True)))[:, 0]  # (2,)
            mixed = np.clip(first[(ids[-1] * 0x9E3779B1 + node * 0x85EBCA6B >> 21) % 2048] @ z, -14, 14)
            odds = np.clip(last[min(node, 255)] * mixed, -14, 14) if p[left].max() >= 1e-3 else z[1]
            p *= np.where(left, sigmoid(-odds), np.where(right, sigmoid(odds), 1))
        return np.asarray(np.log(p))

    def predict(self, ids: list[int], state: Array) -> tuple[Array, Array]:
        """Read the last of `ids`; return log-probabilities (V,) of the next character, and the next state."""
        logits, state = self.step(np.array(ids[-1:]), state)  # (1, V)
        z = (self.mix(logits[0], ids) if self.mixture else logits[0]).astype(float)  # (V,)
        z[0] = -np.inf
        return z - np.logaddexp.reduce(z), state

    def sample(self, prompt: str, length: int, *, temperature: float = 1.0, seed: int = 0) -> str:
        """Return `length` characters that continue a prompt; at temperature 0 the most likely ones."""
        random, ids, state = np.random.default_rng(seed), self.encode(prompt or "\n"), self.initial_state()
        for c in ids[:-1]:
            _, state = self.step(np.array([c]), state)
        for _ in range(length):
            logprobs, state = self.predict(ids, state)
            p = np.exp((logprobs - logprobs.max()) / (temperature or 1))  # (V,)
            ids.append(int(random.choice(len(p), p=p / p.sum())) if temperature else int(logprobs.argmax()))
        return "".join(self.characters[c - 1] for c in ids[len(ids) - length :])

    def score(self, text: str) -> float:
        """Return the bits per character of a line, read after a newline."""
        ids, state, bits = self.encode("\n"), self.initial_state(), 0.0
        for c in self.encode(text):
            logprobs, state = self.predict(ids, state)
            bits += -logprobs[c] / np.log(2) if c else np.log2(len(logprobs) - 1) + 2  # an unknown one
            ids.append(c)
        return bits / max(1, len(ids) - 1)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x) of each number, without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


def read(folder: Path) -> Model:
    """Read a saved model: a folder with model.json, model.keras and, for a mixture, mixture.npz."""
    card = json.loads((folder / "model.json").read_bytes())
    if (card["network"]["architecture"], card["alphabet"]) != ("stateful_lstm", "characters"):
        raise ValueError("this page reads models of the architecture stateful_lstm and of characters only")
    with ZipFile(folder / "model.keras") as zipped, h5py.File(zipped.open("model.weights.h5")) as file:
        groups = {name: layer.get("cell", layer)["vars"] for name, layer in file["layers"].items()}
        arrays = {name: [group[str(i)][:] for i in range(len(group))] for name, group in groups.items()}
    gamma, beta, mean, variance = arrays["batch_normalization"]  # (E,) each
    table = (arrays["embedding"][0] - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    lstms = [arrays[name] for name in sorted(arrays) if name.startswith("lstm")]
    mixture = dict(np.load(folder / "mixture.npz")) if (folder / "mixture.npz").exists() else {}
    return Model(card["characters"], table, lstms, arrays["dense"], mixture)
