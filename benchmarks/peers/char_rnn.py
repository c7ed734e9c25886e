"""The recipe of karpathy/char-rnn with all its defaults, in torch.

Two LSTM layers of 128 on one-hot characters, 50 rows of 50-character windows whose states carry over,
RMSprop at 2e-3 with smoothing 0.95, the rate times 0.97 after each epoch from the tenth on, no dropout,
each element of the gradient clipped to 5. The gradient is that of the loss summed over the window and
averaged over the rows, initial weights are uniform within 0.08 and forget biases 1.

In its favor, the best weights are kept, and evaluations do not count as training time.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.peers.quality_figures import curve_nats, nats_in_one_pass
from benchmarks.texts import SplitText
from nextchar.worker.rows import Rows

LAYERS, UNITS = 2, 128
ROWS, WINDOW = 50, 50
RATE, SMOOTHING = 2e-3, 0.95
DECAY, DECAY_FROM_EPOCH = 0.97, 10
LARGEST_GRADIENT = 5.0
LARGEST_WEIGHT = 0.08
SEED = 123
EVALUATIONS = 20

State = tuple[torch.Tensor, torch.Tensor]  # each (L, B, H)


class CharRNN(torch.nn.Module):
    """The network; also a StepNetwork for `nextchar.worker.evaluation`."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.V = vocabulary
        self.lstm = torch.nn.LSTM(vocabulary, UNITS, LAYERS)
        self.dense = torch.nn.Linear(UNITS, vocabulary)
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -LARGEST_WEIGHT, LARGEST_WEIGHT)
        for layer in range(LAYERS):  # torch's gates are in the order i, f, g, o
            getattr(self.lstm, f"bias_ih_l{layer}").data[UNITS : 2 * UNITS] = 1.0

    def forward(self, ids: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Read ids (T, B) int64; return logits (T, B, V) and the state after them."""
        hidden, after = self.lstm(one_hot(ids, self.V).float(), state)
        return self.dense(hidden), after

    def initial_state(self, rows: int = 1) -> NDArray[np.float32]:
        """Return zeros (B, S): h1, c1, h2, c2 in one row."""
        return np.zeros((rows, 2 * LAYERS * UNITS), np.float32)

    def step(
        self, ids: NDArray[np.int32], state: NDArray[np.float32], first: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read ids (T, B) from state (B, S); return logits (T - first, B, V) and the state after them."""
        h, c = torch.from_numpy(state).reshape(-1, LAYERS, 2, UNITS).permute(2, 1, 0, 3).contiguous()
        with torch.inference_mode():
            logits, after = self(torch.from_numpy(ids).long(), (h, c))
            packed = torch.stack(after).permute(2, 1, 0, 3).reshape(len(state), -1)
        return logits[first:].numpy(), packed.numpy()


class Recipe:
    """Training by windows."""

    def __init__(self, halves: SplitText) -> None:
        torch.manual_seed(SEED)
        self.rows = Rows.cut(halves.train, rows=ROWS, window=WINDOW)
        self.network = CharRNN(len(halves.vocabulary))
        self.optimizer = torch.optim.RMSprop(self.network.parameters(), RATE, alpha=SMOOTHING)
        zeros = torch.zeros(LAYERS, self.rows.rows, UNITS)
        self.state: State = (zeros, zeros)
        self.steps = 0

    @property
    def characters(self) -> int:
        """Characters trained on."""
        return self.steps * self.rows.rows * self.rows.window

    @property
    def epochs(self) -> float:
        """Passes over the training text."""
        return self.steps / self.rows.windows_per_epoch

    def step(self) -> float:
        """Train on the next window; return its loss in nats per character."""
        epoch, k = divmod(self.steps, self.rows.windows_per_epoch)
        x, y = (torch.from_numpy(part).long() for part in self.rows.window_at(epoch=epoch, index=k))
        logits, (h, c) = self.network(x, self.state)
        loss = cross_entropy(logits.flatten(0, 1), y.flatten())
        self.optimizer.zero_grad()
        (loss * self.rows.window).backward()
        torch.nn.utils.clip_grad_value_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.state = (h.detach(), c.detach())
        self.steps += 1
        if k + 1 == self.rows.windows_per_epoch and epoch + 1 >= DECAY_FROM_EPOCH:
            for group in self.optimizer.param_groups:
                group["lr"] *= DECAY
        return loss.item()


def prepare(*, text: str) -> Callable[[float], dict[str, Any]]:
    """Return the Turn: one run."""
    halves = SplitText.read(Path(text))

    def turn(seconds: float) -> dict[str, Any]:
        recipe = Recipe(halves)
        trained_s, losses = 0.0, []
        points: list[dict[str, Any]] = []
        best: dict[str, Any] = {}
        while trained_s < seconds:
            began = time.perf_counter()
            losses.append(recipe.step())
            trained_s += time.perf_counter() - began
            if trained_s >= seconds * (len(points) + 1) / EVALUATIONS:
                nats = curve_nats(recipe.network, halves)
                if all(nats < point["held_out_nats"] for point in points):
                    best = copy.deepcopy(recipe.network.state_dict())
                points.append(
                    {
                        "seconds": round(trained_s, 2),
                        "epochs": round(recipe.epochs, 4),
                        "train_nats": float(np.mean(losses)),
                        "held_out_nats": nats,
                    }
                )
                losses = []
        recipe.network.load_state_dict(best)
        return {
            "curve": points,
            "seconds": trained_s,
            "characters": recipe.characters,
            "epochs": round(recipe.epochs, 4),
            "held_out_nats": nats_in_one_pass(recipe.network, halves),
        }

    return turn
