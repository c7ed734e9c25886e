"""Quality of anomaly detection compared with baselines, and the speed of scoring.

For each data set a model is trained on normal lines with default options, and scores new lines. Baselines
are length, punctuation, the rarity of the template, a Witten-Bell 5-gram and an isolation forest; "ngram
best" is the best of the four aggregates of the n-grams' surprisal, chosen by the labels. No other method uses
labels or settings per data set. "kind" is what the training lines are detected as. "flagged" is the share of
normal lines at a false-alarm rate of 1 %, by the model's calibration and breaks, and by a calibration on one
random half of the test set's normal lines for the other (ten times).

Each set takes its training seconds and about ten more; all take nine minutes.

Then the speed of scoring distinct lines of about 100 characters, with a network of random weights: in
process, over HTTP as a stream, and the network alone as a batched torch.nn.LSTM.

A set is a name, or a file with a label (0 or 1), a kind and a line in each row, separated by tabs.

    python -m benchmarks.anomaly [--data ../shared/data] [--sets bgl http my.tsv] [--preset small]
                                 [--seconds 60 | --epochs 5 | --steps 400] [--seed 1]
                                 [--network 2x256]
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

import nextchar
from benchmarks.anomaly_sets import SETS, LabeledLines, labeled_file
from benchmarks.logs import scorer_of
from benchmarks.networks import CHARACTERS, E, V, random_weights, saved_model
from benchmarks.report import print_json_line, print_table
from benchmarks.server import running_api
from nextchar.models.anomaly.aggregate import NGRAM_STATISTICS, STATISTICS, statistics
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.anomaly.metrics import NAMES, auroc, baseline_scores, detection_quality
from nextchar.models.anomaly.scorer import ReadPrecision
from nextchar.models.config import PRESETS
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text.masks import Masks
from nextchar.models.text.ngram import FILE, dump, ngram_of
from nextchar.models.text.vocabulary import Vocabulary, normalize

_RATE = 0.01
_HALVES = 10
_SPEED_LINES = 4_000
_LINE_CHARACTERS = 100


def main() -> None:
    """Measure every set, then the speed, and print the results."""
    options = _arguments()
    found = {
        Path(name).stem: measure(
            SETS[name](options.data) if name in SETS else labeled_file(Path(name)), options
        )
        for name in options.sets
    }
    heads = [
        "set",
        "kind",
        "ours",
        *NAMES,
        "ngram best",
        "anomalous",
        "recall 1 %",
        "flagged tail",
        "flagged half",
    ]
    rows = [
        [name, f["kind"], f"{f['auroc']:.4f}", *(f"{f['baselines'][b]:.4f}" for b in NAMES),
         f"{f['ngram_best']:.4f}", str(f["anomalous"]),
         f"{f['recall_at_1_percent']:.3f}", f"{f['flagged_by_tail']:.2%}",
         f"{f['flagged_by_half']:.2%}"]
        for name, f in found.items()
    ]  # fmt: skip
    if rows:
        print_table(heads, rows)
    fast = speed(options.network) if options.network else {}
    for name, value in fast.items():
        print(f"{options.network} {name}: {value:,.0f} characters per second and core")
    print_json_line(
        "anomaly", preset=options.preset, **_budget(options), seed=options.seed, sets=found, speed=fast
    )


def measure(task: LabeledLines, options: argparse.Namespace) -> dict[str, Any]:
    """Train on one set and return its figures."""
    masks = {"masks": list(task.masks)} if task.masks else {}
    text = "".join(f"{normalize(line)}\n" for line in task.train)
    with nextchar.train(text, preset=options.preset, seed=options.seed, **_budget(options), **masks) as model:
        scorer = scorer_of(model)
        characters = map(model.loaded.vocabulary.to_characters, map(normalize, task.lines))
        lines = scorer.read(list(characters))
        found = list(scorer.scores(lines))
        kind = model.loaded.saved.card.kind
    assert scorer.calibration, "there are enough lines"
    calibration = scorer.calibration.calibration
    anomalous = np.array(task.anomalous)
    scores = np.array([one.score for one in found])
    quality = detection_quality(scores, anomalous)
    masked = [line.masked.text for line in lines]
    mask = Masks(model.loaded.saved.card.masks)
    simple = baseline_scores([mask.apply(line).text for line in text.split("\n")], masked)
    readings = [line.surprisal for line in lines]
    normal = [reading for reading, is_anomalous in zip(readings, anomalous, strict=True) if not is_anomalous]
    flagged = np.array([bool(one.anomalous) for one in found])
    return {
        "kind": kind,
        "auroc": round(quality.auroc, 4),
        "average_precision": round(quality.average_precision, 4),
        "recall_at_1_percent": round(quality.recall[1], 4),
        "baselines": {name: round(auroc(found, anomalous), 4) for name, found in simple.items()},
        "ngram_best": round(max(auroc(column, anomalous) for column in _ngram_columns(readings)), 4),
        "lines": {"train": len(task.train), "calibration": calibration.lines, "judged": len(anomalous)},
        "anomalous": int(anomalous.sum()),
        "flagged_by_tail": round(float(flagged[~anomalous].mean()), 4),
        "network_share": round(float(calibration.buckets[0].weights[: len(STATISTICS)].sum()), 2),
        "flagged_by_half": round(float(np.mean([_flagged_by_half(normal, i) for i in range(_HALVES)])), 4),
    }


def speed(network: str) -> dict[str, float]:
    """Return characters per second and core, for lines of about 100 characters.

    Seconds are the process's own, so that a busy machine does not count.
    """
    layers, units = map(int, network.split("x"))
    weights = random_weights(layers, units)
    random = np.random.default_rng(0)
    known = np.array([c for c in CHARACTERS if c not in "\n\r"])
    lines = ["".join(random.choice(known, n)) for n in random.integers(80, 121, _SPEED_LINES)]
    vocabulary = Vocabulary(CHARACTERS)
    counted = ngram_of(vocabulary.encode("\n".join(reversed(lines))), vocabulary)
    saved = saved_model(layers, units, weights, {FILE: dump(counted)})
    characters = sum(map(len, lines))
    found: dict[str, float] = {}
    loaded = LoadedModel.load(saved)
    scorer = loaded.scorer
    precisions: dict[str, ReadPrecision] = {"float32 in process": "float32", "int8 in process": "fast"}
    for name, precision in precisions.items():
        scorer.read(lines[:50], precision=precision)
        began = time.process_time()
        scorer.read(lines, precision=precision)
        found[name] = characters / (time.process_time() - began)
    loaded.engine.close()
    with running_api([saved], model_threads=1) as api, httpx.Client(timeout=600) as http:
        url = f"http://127.0.0.1:{api.port}/v1/models/{saved.card.name}/score"
        headers = {"Content-Type": "text/plain"}
        http.post(url, content="\n".join(lines[:50]), headers=headers)
        began = _processor_s(api.pid)
        http.post(url, content="\n".join(lines), headers=headers).raise_for_status()
        found["streamed over HTTP"] = characters / (_processor_s(api.pid) - began)
    if importlib.util.find_spec("torch"):
        found["torch.nn.LSTM, batches of 64"] = _torch_speed(layers, units)
    return found


def _processor_s(pid: int) -> float:
    """Return the processor seconds that a process has used. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _budget(options: argparse.Namespace) -> dict[str, Any]:
    """Return how long to train: the unit that was given, or seconds."""
    unit = next((unit for unit in ("steps", "epochs") if getattr(options, unit)), "seconds")
    return {unit: getattr(options, unit)}


def _ngram_columns(readings: list[LineSurprisal]) -> NDArray[np.float64]:
    first = len(STATISTICS)
    return statistics(readings)[:, first : first + len(NGRAM_STATISTICS)].T


def _flagged_by_half(normal: list[LineSurprisal], seed: int) -> float:
    order: NDArray[np.intp] = np.random.default_rng(seed).permutation(len(normal))
    half = len(order) // 2
    _, p = calibrate([normal[i] for i in order[:half]]).score([normal[i] for i in order[half:]])
    return float((p <= _RATE).mean())


def _torch_speed(layers: int, units: int) -> float:
    import torch

    torch.set_num_threads(1)
    embedding, lstm = torch.nn.Embedding(V, E), torch.nn.LSTM(E, units, layers)
    dense = torch.nn.Linear(units, V)
    ids = torch.randint(1, V, (_LINE_CHARACTERS, 64))
    rounds = 10
    with torch.inference_mode():
        for timed in (False, True):
            began = time.process_time()
            for _ in range(rounds if timed else 1):
                hidden, _ = lstm(embedding(ids))
                logprobs = torch.log_softmax(dense(hidden[:-1]), -1)
                logprobs.gather(-1, ids[1:, :, None])
    return rounds * ids.numel() / (time.process_time() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-anomaly", description="Find anomalous lines, and read them fast."
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of texts")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help=f"of {', '.join(SETS)}, or files")
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each set")
    parser.add_argument("--epochs", type=float, help="passes over the text instead")
    parser.add_argument("--steps", type=int, help="steps of the optimizer instead")
    parser.add_argument("--seed", type=int, default=1, help="of the weights")
    parser.add_argument("--network", default="2x256", help="whose speed is measured; empty: none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
