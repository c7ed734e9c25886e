"""The calibration made with a model: what the lines of its held-out text score."""

from models.anomaly.calibration import FEWEST_LINES, calibrate
from models.runtime.scoring import read_lines
from models.runtime.session import Network
from store.calibrations import validation_file
from worker.texts import Text

_CHARACTERS = 5_000_000  # of the held-out text, from its beginning: a minute or two
_LONGEST_LINE = 50_000  # longer ones are no lines


def validation_calibration(graph: bytes, text: Text, *, cores: int) -> bytes | None:
    """Return the file with the calibration on the whole lines of the held-out text; None if it has too few.

    The lines are read as lines are when they are scored: each by itself, after a newline.
    """
    held_out = text.vocabulary.decode(text.validation[:_CHARACTERS])
    follows_newline = text.vocabulary.decode(text.train[-1:]) == "\n"
    whole = held_out.split("\n")[0 if follows_newline else 1 : -1]
    lines = [line for line in whole if len(line) <= _LONGEST_LINE]
    if len(lines) < FEWEST_LINES:
        return None
    network = Network(graph, threads=cores)
    return validation_file(calibrate(read_lines(network, text.vocabulary, lines, with_end=True)))
