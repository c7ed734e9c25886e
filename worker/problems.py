"""What is wrong with a finished model, judged by its report's own baselines, and what would help."""

from collections.abc import Mapping
from typing import Any

_LEARNED = 0.95  # times the unigram's bits: a model above this has learned little but character frequencies
_MARGIN_BITS = 0.01  # a smaller difference is not reported: both figures would look the same
_DULL_BITS = 0.05  # below it, a text is predicted well enough


def found(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence, with figures and advice, where a model has learned too little; else nothing.

    It has if it is not clearly better than character frequencies alone, or worse than the best of the n-gram
    model and xz on the same held-out text.
    """
    bits, baselines = report["validation_bits_per_character"], report.get("baselines", {})
    if bits < _DULL_BITS:
        return []
    unigram = baselines.get("unigram")
    if unigram is not None and bits > _LEARNED * unigram:
        sentence = (
            f"the model has learned next to nothing: {bits:.2f} bits per character on held-out text, where"
            f" character frequencies alone (unigram) reach {unigram:.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    names = {"ngram": f"{report.get('ngram_order')}-gram model", "xz": "xz compressor"}
    known = {baselines[key]: name for key, name in names.items() if key in baselines}
    if known and bits > min(known) + _MARGIN_BITS:
        sentence = (
            f"the model is worse than a simple predictor: {bits:.2f} bits per character on held-out text,"
            f" where the {known[min(known)]} reaches {min(known):.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    return []


def _advice(report: Mapping[str, Any]) -> str:
    if (turned := report.get("validation_turned_at_step")) is not None:
        return f"validation was best at step {turned}, so give it more text, or take a smaller preset"
    how_long = (
        f"it trained for {report['training_seconds']:.0f} s and read the text {report['epochs']:.2g} times"
    )
    if report["epochs"] < 1:
        return f"{how_long}: give it more seconds, or take a smaller preset"
    return f"{how_long}: give it more seconds or more text, or take a smaller preset"
