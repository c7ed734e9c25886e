"""Drift detection: whether lines still look like the calibration data.

P-values are valid only for lines that do. A tenth of such lines has a p-value of 0.1 or less. If it is far
more, the lines have changed, or a large part of them is anomalous.
"""

UNUSUAL = 0.1
"""The p-value up to which a line is counted as unusual."""

MIN_LINES = 100
MAX_UNUSUAL_FRACTION = 0.3
"""A larger share of at least MIN_LINES lines counts as drift; by chance this happens once in a million."""


def drift(lines: int, unusual: int) -> str | None:
    """Return a warning if too many of `lines` lines are `unusual`, else None.

    >>> drift(200, 20), drift(50, 50)
    (None, None)
    """
    if lines < MIN_LINES or unusual <= MAX_UNUSUAL_FRACTION * lines:
        return None
    return (
        f"These lines don't look like the calibration data: {unusual / lines:.0%} of {lines:,} lines are as"
        f" unusual as its most unusual {UNUSUAL:.0%}. Expect more false alarms than you asked for. If these"
        " lines are normal, calibrate on recent ones, and mask what changes when you train again."
    )
