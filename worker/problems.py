"""Problems of a finished model, found by its report, with advice."""

from nextchar.models.report import Report
from nextchar.models.saved_model import Card

_MAX_UNIGRAM_RATIO = 0.95  # a model above this has learned hardly more than character frequencies
_MARGIN_BITS = 0.01  # smaller differences are not reported: the printed figures would be equal
_GOOD_BITS = 0.05  # a text that is predicted this well is not a problem
_UNLIKE_RATIO = 1.15  # of the network's bits on both halves of the held-out text; 0.96 to 1.10 is usual
_UNLIKE_BITS = 0.25
_MAY_BE_SEEN = (
    "the model that training started from may have been trained on some of the held-out lines, because those"
    " of records are drawn at random: held-out figures and the calibration can look too good; to compare"
    " models, train without start_from"
)
_IS_SEEN = (
    "the model that training started from was trained on some of the held-out text, because it was trained on"
    " the same corpus and held out less of it, or other parts: held-out figures and the calibration can look"
    " too good; to compare models, train without start_from"
)


def find_problems(report: Report, start: Card | None = None) -> list[str]:
    """Return a sentence, with figures and advice, if a model or its text has a problem; else nothing.

    That is if the model is not clearly better than character frequencies alone, or worse than the best of
    n-gram model, xz and PPMd on the same held-out text, or if the end of the text is unlike what precedes it;
    and also if the model that training started from, whose card is `start`, may know held-out text.
    """
    overlap = _overlap_with_start(report, start)
    return [*([overlap] if overlap else []), *_found_by_figures(report)]


def _overlap_with_start(report: Report, start: Card | None) -> str | None:
    """Return a sentence if the model that training started from may have been trained on held-out text."""
    if not report.get("started_from"):
        return None
    if report.get("kind") == "records":
        return _MAY_BE_SEEN
    if start is None:
        return None
    if start.corpus != report["corpus"]:
        return _IS_SEEN if start.mix and start.mix.corpus == report["corpus"] else None
    held_out_less = start.training.validation_fraction < report["training"]["validation_fraction"]
    return _IS_SEEN if start.kind == "records" or held_out_less else None


def _found_by_figures(report: Report) -> list[str]:
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
    names = {
        "ngram": f"{report.get('ngram_order')}-gram model",
        "xz": "xz compressor",
        "ppmd": "PPMd compressor",
    }
    name_by_bits = {baselines[key]: name for key, name in names.items() if key in baselines}
    if name_by_bits and bits > min(name_by_bits) + _MARGIN_BITS:
        sentence = (
            f"the model is worse than a simple predictor: {bits:.2f} bits per character on held-out text,"
            f" where the {name_by_bits[min(name_by_bits)]} reaches {min(name_by_bits):.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    return [unlike] if (unlike := _unlike_end(report)) else []


def _unlike_end(report: Report) -> str | None:
    """Return a sentence if the network is far worse on the half of the held-out text that judges the model.

    That is, worse than on the half before, on which its best step was chosen.
    """
    curve, judged = report.get("curve", []), report.get("experts", {}).get("lstm")
    if not curve or judged is None:
        return None
    chosen = min(point["validation_bits_per_character"] for point in curve)
    if judged < chosen + _UNLIKE_BITS or judged < chosen * _UNLIKE_RATIO:
        return None
    return (
        "the end of the text, by which the model is judged, is unlike what precedes it: the network alone"
        f" has {judged:.2f} bits per character there, and {chosen:.2f} before; look at the end, and leave out"
        " what does not belong to the text, such as a license or an index"
    )


def _advice(report: Report) -> str:
    if unlike := _unlike_end(report):
        return unlike
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
