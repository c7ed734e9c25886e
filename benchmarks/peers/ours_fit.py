"""Our training: `nextchar.worker.training.fit` with a preset and a budget in seconds, as a job runs it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.quality_figures import nats_in_one_pass
from benchmarks.texts import HELD_OUT, SplitText
from nextchar.models.config import PRESETS, Budget, Preset
from nextchar.models.machine import available_cores
from nextchar.models.runtime.session import Network
from nextchar.worker.evaluation import graph_of
from nextchar.worker.hooks import Hooks
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import fit


def prepare(*, text: str, preset: Preset) -> Callable[[float], dict[str, Any]]:
    """Return the Turn: one run. Its seconds include compilation and the evaluations on the way."""
    halves = SplitText.read(Path(text))
    prompt = halves.vocabulary.decode(halves.train[-100:])
    corpus = Text(halves.vocabulary, halves.train, halves.held_out, prompt)
    network, recipe = PRESETS[preset]
    cores = available_cores()

    def turn(seconds: float) -> dict[str, Any]:
        training = recipe.model_copy(
            update={"budget": Budget(seconds=seconds), "validation_fraction": HELD_OUT}
        )
        points: list[dict[str, Any]] = []
        result = fit(network, training, corpus, cores=cores, hooks=Hooks(event=_collector(points)))
        kept = Network(graph_of(result.network), threads=cores)
        return {
            "curve": points,
            "seconds": result.elapsed_s,
            "characters": result.characters,
            "epochs": result.epochs,
            "held_out_nats": nats_in_one_pass(kept, halves),
        }

    return turn


def _collector(points: list[dict[str, Any]]) -> Callable[[str, dict[str, Any]], None]:
    def on_event(kind: str, data: dict[str, Any]) -> None:
        if kind == "metrics":
            bits = data["train_bits_per_character"]
            points.append(
                {
                    "seconds": data["elapsed_seconds"],
                    "epochs": data["epoch"],
                    "train_nats": None if bits is None else bits * math.log(2),
                    "held_out_nats": data["validation_bits_per_character"] * math.log(2),
                }
            )

    return on_event
