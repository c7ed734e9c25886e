"""The same step written with torch.nn.LSTM, in float32 or under bfloat16 autocast, on a CPU or a GPU."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.steps import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, timed, torch_versions, windows


def prepare(
    *,
    layers: int,
    units: int,
    embedding: int,
    vocabulary: int,
    rows: int,
    window: int,
    bfloat16: bool,
    gpu: bool = False,
) -> Callable[[float], dict[str, Any]]:
    """Return the Turn."""
    torch.manual_seed(0)
    device = "cuda" if gpu else "cpu"
    table = torch.nn.Embedding(vocabulary, embedding, device=device)
    lstm = torch.nn.LSTM(embedding, units, layers, device=device)
    dense = torch.nn.Linear(units, vocabulary, device=device)
    parameters = [p for module in (table, lstm, dense) for p in module.parameters()]
    # `fused` is its fastest AdamW, on a CPU too.
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
    )
    stream = windows(rows=rows, window=window, vocabulary=vocabulary)
    state = (torch.zeros(layers, rows, units, device=device), torch.zeros(layers, rows, units, device=device))

    def step() -> float:
        nonlocal state
        x, y = (torch.from_numpy(part).to(device).long() for part in next(stream))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            hidden, (h, c) = lstm(table(x), state)
            logits = dense(hidden)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        state = (h.detach(), c.detach())
        return loss.item()

    return timed(step)


def versions(**_: object) -> str:
    """Return the versions of the libraries."""
    return torch_versions()
