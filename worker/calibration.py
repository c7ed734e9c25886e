"""What a model needs to judge lines: n-grams of its text, and what the lines of its held-out text score."""

from models.anomaly import ngram
from models.anomaly.calibration import FEWEST_LINES, calibrate
from models.anomaly.precision import higher
from models.runtime.engine import INT8_FILE
from models.runtime.scoring import read_lines
from models.runtime.session import Network, open_network
from store.calibrations import MODEL_FILE, validation_file
from worker.texts import Text

_CHARACTERS = (
    5_000_000  # of the held-out text, from its end, as later lines are most like it: a minute or two
)
_LONGEST_LINE = 50_000  # longer ones are no lines


def anomaly_files(graph: bytes, text: Text, *, cores: int, int8: bytes | None = None) -> dict[str, bytes]:
    """Return the files of a model that scores need: the n-grams, and the calibration if it can be made.

    It is made on the newest whole lines of the held-out text, read as lines are when they are scored: each by
    itself, after a newline, in float32 and with the weights `int8`, if there are any.
    """
    counted = ngram.ngram_of(text.train[-ngram.MOST_CHARACTERS :], text.vocabulary)
    files = {ngram.FILE: ngram.dump(counted)}
    held_out = text.vocabulary.decode(text.validation[-_CHARACTERS:])
    follows_newline = len(text.validation) <= _CHARACTERS and text.vocabulary.decode(text.train[-1:]) == "\n"
    whole = held_out.split("\n")[0 if follows_newline else 1 : -1]
    lines = [line for line in whole if len(line) <= _LONGEST_LINE]
    if len(lines) >= FEWEST_LINES:
        readings = read_lines(Network(graph, threads=cores), text.vocabulary, lines, with_end=True)
        if int8:
            network = open_network(INT8_FILE, int8, threads=cores)
            readings = higher(readings, read_lines(network, text.vocabulary, lines, with_end=True))
        files[MODEL_FILE] = validation_file(calibrate(ngram.with_ngram(readings, lines, counted)))
    return files
