"""The report as one HTML page, from the template report.html.j2.

Corpora and models can contain any characters. So the template escapes every value, and control characters are
replaced by visible symbols.
"""

import base64
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from nextchar.models.report import Passage, Report
from nextchar.worker.plots import describe, duration, with_mixture

# Control characters become pictures of themselves, other unprintable ones U+FFFD.
_VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), 0xFFFD)

_MAX_SAMPLES = 6
_MAX_PASSAGES = 3

_MEANINGS = {
    "uniform": "all characters equally likely",
    "unigram": "character frequencies",
    "bigram": "previous character",
    "ngram": "previous {context} characters",
    "gzip": "compression, with the 32 kB before",
    "xz": "compression, with the text before",
    "ppmd": "compression by contexts, with the text before",
}
_EXPERTS = {
    "mixture": "Mixture (what the model predicts with)",
    "lstm": "Network alone",
    "ngram": "n-grams alone",
    "without_matches": "Network and n-grams",
    "without_adaptation": "Mixture without adaptation",
}
_VERDICTS = {
    "novel": "The model writes new text.",
    "repetitive": "Much of the generated text occurs in the training text, and so does held-out text:"
    " this kind of text repeats itself.",
    "copies": "The model copies its training text, more than held-out text repeats it.",
}


def page(report: Report, *, wide: str | None, narrow: str | None) -> str:
    """Return the page with the curves as SVG, `narrow` for phones; missing parts are omitted."""
    bits = report["validation_bits_per_character"]
    baselines = {baseline_name(name, report): cost for name, cost in report.get("baselines", {}).items()}
    best = min(baselines.items(), key=lambda item: item[1], default=None)
    texts = report["memorization"]["generated"] if report.get("memorization") else []
    passages = sorted((p for text in texts for p in text["passages"]), key=lambda p: -p["length"])
    return _template().render(
        report=report,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report["created_at"])),
        best_baseline=best and {"name": best[0], "bits": best[1]},
        predictors=_predictors(report, bits) if baselines else [],
        experts=_experts(report),
        verdicts=_VERDICTS,
        passages=_distinct(passages)[:_MAX_PASSAGES],
        samples=_spread(report.get("samples", []), _MAX_SAMPLES),
        description=describe(
            report["curve"],
            with_mixture(report.get("baselines", {}), report.get("experts", {}).get("mixture")),
        ),
        wide=wide and _data_url(wide),
        narrow=narrow and _data_url(narrow),
    )


def baseline_name(key: str, report: Report) -> str:
    """Return the name of a baseline for people."""
    return f"{report['ngram_order']}-gram" if key == "ngram" else key


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {"number": "{:,}".format, "duration": duration}
    environment.filters["percent"] = lambda fraction, digits: f"{fraction:.{digits}%}"
    return environment.get_template("report.html.j2")


def _visible(value: Any) -> Any:
    r"""Replace unprintable characters in a value of the template.

    >>> _visible("a\x1b")
    'a␛'
    """
    return value if isinstance(value, Markup) else str(value).translate(_VISIBLE)


def _predictors(report: Report, bits: float) -> list[dict[str, Any]]:
    """Return the rows of the table of baselines, with the model's, fewest bits first."""
    context = report.get("ngram_order", 1) - 1
    rows = [{"name": "this model", "bits": bits, "meaning": "", "is_model": True}]
    rows += [
        {
            "name": baseline_name(key, report),
            "bits": cost,
            "meaning": _MEANINGS.get(key, "").format(context=context),
            "is_model": False,
        }
        for key, cost in report["baselines"].items()
    ]
    return sorted(rows, key=lambda row: row["bits"])


def _experts(report: Report) -> list[dict[str, Any]]:
    """Return the rows of the table of experts; none for a report without them."""
    measured = dict(report.get("experts", {}))
    return [
        {"key": key, "name": name, "bits": measured[key]} for key, name in _EXPERTS.items() if key in measured
    ]


def _distinct(passages: Iterable[Passage]) -> list[Passage]:
    """Return passages without those contained in an earlier one."""
    distinct: list[Passage] = []
    for passage in passages:
        if not any(passage["text"] in other["text"] for other in distinct):
            distinct.append(passage)
    return distinct


def _spread(items: list[Any], count: int) -> list[Any]:
    """Return `count` items at even distances, with the first and the last; all, if there are fewer."""
    if len(items) <= count:
        return items
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _data_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
