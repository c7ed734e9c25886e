"""The experts of a model's report, as people read them. Reports of older models have none."""

from collections.abc import Mapping
from typing import Any

from nextchar.cli.formatting import format_bits

NAMES = {
    "mixture": "Mixture (what the model predicts with)",
    "lstm": "Network alone",
    "ngram": "n-grams alone",
    "without_matches": "Network and n-grams",
    "without_adaptation": "Mixture without adaptation",
}
DEFAULT_WEIGHTS = (
    "The held-out text is too short to learn the weights of the experts; default weights are used."
)


def rows(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the name and the bits per character of each expert that was measured."""
    measured = report.get("experts") or {}
    return [(name, measured[key]) for key, name in NAMES.items() if measured.get(key) is not None]


def sentence(report: Mapping[str, Any]) -> str:
    """Return the figures of the experts alone, for models with a mixture; else ""."""
    if (report.get("experts") or {}).get("mixture") is None:
        return ""
    return ", ".join(f"{name} {format_bits(bits)}" for name, bits in rows(report)[1:])
