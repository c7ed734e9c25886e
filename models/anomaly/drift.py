"""Whether lines are still like those of the calibration, by which alone p-values mean anything.

Of ordinary lines a tenth has a p-value of 0.1 or less, whatever the rate that is asked for. If it is far
more, the lines have changed, or a large part is odd; which of the two, a person has to say.
"""

UNUSUAL = 0.1
"""The p-value up to which a line is counted as unusual."""

FEWEST_LINES = 100
SHARE = 0.3
"""Of so many lines or more, so large an unusual share is told: chance alone gives it once in a million."""


def drift(lines: int, unusual: int) -> str | None:
    """Return what is to be said of so many lines of which so many are unusual, or None: nothing is.

    >>> drift(200, 20), drift(50, 50)
    (None, None)
    """
    if lines < FEWEST_LINES or unusual <= SHARE * lines:
        return None
    return (
        f"These lines don't look like the calibration data: {unusual / lines:.0%} of {lines:,} lines are as"
        f" unusual as its most unusual {UNUSUAL:.0%}. Expect more false alarms than you asked for. If these"
        " lines are normal, calibrate on recent ones, and mask what changes when you train again."
    )
