"""Problems of a finished model, found by the baselines of its report, with advice."""

from models.report import Report

_MAX_UNIGRAM_RATIO = 0.95  # a model above this has learned hardly more than character frequencies
_MARGIN_BITS = 0.01  # smaller differences are not reported: the printed figures would be equal
_GOOD_BITS = 0.05  # a text that is predicted this well is no problem


def find_problems(report: Report) -> list[str]:
    """Return a sentence, with figures and advice, if a model has learned too little; else nothing.

    That is if it is not clearly better than character frequencies alone, or worse than the best of the n-gram
    model and xz on the same held-out text.
    """
    bits, baselines = report["validation_bits_per_character"], report.get("baselines", {})
    if bits < _GOOD_BITS:
        return []
    unigram = baselines.get("unigram")
    if unigram is not None and bits > _MAX_UNIGRAM_RATIO * unigram:
        sentence = (
            f"the model has learned almost nothing: {bits:.2f} bits per character on held-out text, where"
            f" character frequencies alone (unigram) reach {unigram:.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    names = {"ngram": f"{report.get('ngram_order')}-gram model", "xz": "xz compressor"}
    name_by_bits = {baselines[key]: name for key, name in names.items() if key in baselines}
    if name_by_bits and bits > min(name_by_bits) + _MARGIN_BITS:
        sentence = (
            f"the model is worse than a simple predictor: {bits:.2f} bits per character on held-out text,"
            f" where the {name_by_bits[min(name_by_bits)]} reaches {min(name_by_bits):.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    return []


def _advice(report: Report) -> str:
    if (turned := report.get("validation_turned_at_step")) is not None:
        return f"validation was best at step {turned}: train on more text, or use a smaller preset"
    if report.get("ended_early"):
        return "held-out loss stopped falling, so training ended early: train on more text"
    training = (
        f"it trained for {report['training_seconds']:.0f} s and read the text {report['epochs']:.2g} times"
    )
    if report["epochs"] < 1:
        return f"{training}: train for more seconds, or use a smaller preset"
    return f"{training}: train for more seconds or on more text, or use a smaller preset"
