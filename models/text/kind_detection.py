"""Detects what a text is, from a sample of its lines: a log, independent records, code, or text.

Records are lines in no particular order: names, words, domains, requests. Shuffling the lines of another text
would destroy it, so a text is records only if its lines show it:

- neighbors have no more in common than the same lines in random order, and enough lines have something in
  common to show it: so even questions, rows of numbers, and lines that repeat are records, unless the same
  lines follow each other again, as in licenses; or
- they are sorted, which lines in an order of their own are not; or
- they are sequences of different lengths of a few words, as of system calls; or
- each is a single word, as a domain is, and most differ; or
- they are short, unlike sentences, and nothing shows that neighbors are related.

A count in a column after each line is ignored. The labeled fields of objects, as in JSON with a value per
line, are not records. In doubt it is text.
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, Literal

from nextchar.models.text.line_columns import has_counts
from nextchar.models.text.log_clock import TIMES, is_stack_frame
from nextchar.models.text.log_detection import LineSample, LogDetection, detect_log
from nextchar.models.text.masks import Masks

TextKind = Literal["log", "records", "code", "text"]
Purpose = Literal["complete", "anomalies", "both"]
"""What a model is trained for. Every model does both; the default masks depend on it."""

_MIN_LINES = 20  # fewer are not enough to tell
_MIN_UNSORTED_LINES = 100  # of several words each: the least that shows whether neighbors are related

_MAX_EMPTY = 0.02  # fraction of empty lines: stanzas and paragraphs have more
_MAX_INDENTED = 0.05
_MAX_BRACKETED = 0.5  # fraction of the lines that start with a bracket
_MIN_DISTINCT = 0.6  # fraction of distinct lines: a text with one word per line repeats its frequent words
_MIN_LETTERS = 0.15  # fraction of letters among the characters; lines with fewer may be measurements
_MIN_DIFFERENT = 0.3  # fraction of distinct lines that are so apart from their numbers, for the same reason
_MIN_SPACED = 0.9  # fraction of the letters from scripts that put spaces between words
_MIN_SORTED = 0.75  # fraction of the neighbors in order, less a margin for few lines; of other texts 0.5
_MIN_SINGLE = 0.9  # fraction of the lines of one word
_MIN_CODE = 0.4  # fraction of the lines that look like code
_MIN_ROWS = 0.9  # fraction of the lines with the same columns
_MAX_LABELS = 0.2  # distinct labels per line
_MIN_LABELED = 0.5  # fraction of the lines of objects that have a label
_MIN_PREDICTED = 0.6  # fraction of the labels that follow the one before more often than any other does
_MIN_SPOKEN = 0.9  # fraction of the lines of a conversation that have a label, and of sentences, distinct
_MIN_SENTENCE_LETTERS = 0.85  # fraction of letters and spaces among their characters
_MIN_HEADINGS = 0.005  # fraction of the lines of Markdown
_MIN_LINKS = 0.02
_MIN_COMMENTS = (
    0.02  # beginnings of comments per line that starts with an asterisk; with fewer it is a bullet
)
_MIN_WRAPPED = 0.8  # fraction of the lines of exactly the same length
_WRAPPED_CHARACTERS = 40  # a shorter line is not a wrapped one

_MAX_SENTENCE_ENDS = 0.1  # fraction of the lines that end like a clause
_MAX_FUNCTION_WORDS = 0.1  # fraction of the words that are short and frequent: in running text, 0.2 and more
_MIN_FUNCTION_WORDS = 0.2  # of sentences with times; in logs of distinct lines, at most 0.16
_FUNCTION_WORD_LETTERS = 3
_MIN_FUNCTION_WORD = 0.004  # of the words: the frequency from which on a short word counts
_MAX_MEDIAN_WORDS = 12
_MAX_UNRELATED = 1.75  # what neighbors have in common, per that in random order; of texts 2.6 and more
_DEVIATIONS = 2  # by which that must be certain
_MIN_EXPECTED = 3.0
_SHUFFLES = 8
_NEIGHBORS = 3  # lines after each that it is compared with
_RARE = 0.05  # of the lines: words in more of them do not show a subject
_MAX_WORDS = 60  # that are compared per line
_COMPARED = 1, 2, 3, 5, 8  # adjacent words that are compared together
_MIN_GROUPED = 0.5  # fraction of the lines of groups that begin with the word of the line before
_MIN_GROUPED_LINES = 500
_MAX_REPEATED_BEGINNINGS = 0.2  # probability that any two of their lines begin with the same word
_MIN_SEQUENCE = 8  # words of the median line
_MAX_VOCABULARY = 0.02  # distinct words per word of sequences
_MIN_STRETCH = 2  # words of a long sequence, per those of a short one

_CLAUSE_ENDS = tuple(".,;:!?\u2026\u2014\u3002\uff0c\uff01\uff1f\uff1b\uff1a\u3001")
_CLOSING = "\"')]\u201d\u2019\u00bb"  # after the punctuation of a clause
_BRACKETS = tuple("{[(<")
_NUMBER = re.compile(r"(?<![\d.,+-])[\d.,+-]*\d")  # only from a run's beginning, so in linear time
_NUMBER_CELL = re.compile(r"[\s\"]*[-+]?(?=[.,]*\d)[\d.,]+(?:[eE][-+]?\d+)?%?[\s\"]*")
_QUOTED = re.compile(r'"[^"]*"')  # a cell, which may have delimiters
_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"\w+")
_PUNCTUATION = re.compile(r"[^\w\s]+")
_NO_LETTERS = ".,;:!?\"'()[]"
_LABEL = re.compile(r"<([^<>\s][^<>]{0,30})>\s|([^\s:][^:]{0,30}):\s")
_FIELD = re.compile(r"\W{0,8}(\w[\w .-]{0,30})[\"']?\s?[:=\"]")  # after brackets or quotation marks
_KEY = re.compile(r'"(\w+)":')
_CODE = re.compile(
    r"[;{}\[(\\]$|^[#@<}\])]|^(?://|/\*|\*|--|;)|^</?\w|^\([\w-]|^\(.*\),?$|\)\)$|\w\(|[=!<>]=|[-=]>|::|\+=|&&|"
    r"\|\||"
    r"^(?:def|class|import|from|return|if|elif|else|for|while|try|except|with|function|local)\b.*:$|"
    r"\b(?:then|do)$|^(?:fi|done|esac|then)\b|\$[{(]|"
    r"^\w+(?:\.\w+)* = |^(?:import|from|return|break|pass|end|else)\b[^,.]*$"
)
_STATEMENT = re.compile(
    r"(?:INSERT INTO|CREATE|ALTER|DROP|UPDATE|DELETE FROM)\s|\(.*\)[,;]?$", re.IGNORECASE
)  # of SQL
_HEADING = re.compile(r"#{1,6} \S")
_MARKDOWN = re.compile(r"^(?:#{1,6}|[*+-]|\d+\.|>) +")
_LINK = re.compile(r"!?\[[^\[\]]*\]\([^()\s]*\)")
_TIME_OF_DAY = re.compile(  # after a masked date
    r"^[\s\[(<,.\u24e3\u24d3\u24d2-]*(?:\d{1,2}:\d\d(?:\s?[ap]\.?m\.?)?)?[\s\])>,-]*", re.IGNORECASE
)
# Scripts without spaces between words, by the beginning of the names of their letters.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class KindDetection:
    """The kind of a text, and the reason as a clause; of a log also its masks."""

    kind: TextKind
    reason: str
    log: LogDetection


def detect_kind(sample: LineSample) -> KindDetection:
    """Return the kind of the text that this is a sample of: the first of the rules that holds decides."""
    raw = sample.lines()
    log = detect_log(raw)
    if len(raw) >= _MIN_LINES and has_counts(raw):
        counted = _decided([line.rpartition("\t")[0] for line in raw], sample.empty_fraction(), log)
        if counted.kind == "records":
            return replace(counted, reason=f"each line ends with a count, and {counted.reason}")
    return _decided(raw, sample.empty_fraction(), log)


def _decided(raw: list[str], empty: float, log: LogDetection) -> KindDetection:
    lines = _Lines(raw, [line.strip() for line in raw], empty, log)
    kind, reason = next((kind, reason) for holds, kind, reason in _RULES if holds(lines))
    return KindDetection(kind, log.clock.reason if kind == "log" and log.clock else reason, log)


@dataclass(frozen=True)
class _Lines:
    """The sampled lines that are not empty."""

    raw: list[str]
    stripped: list[str]  # without spaces at both ends
    empty: float  # the fraction of empty lines
    log: LogDetection

    def fraction(self, holds: Callable[[str], bool]) -> float:
        """Return the fraction of the lines, without spaces at both ends, for which `holds`."""
        return _fraction(self.stripped, holds)

    @cached_property
    def words(self) -> list[list[str]]:
        """The words of each line: what is between spaces, without punctuation around it."""
        return [[word.strip(_NO_LETTERS) for word in line.split()] for line in self.stripped]

    @cached_property
    def common(self) -> tuple[float, float, float]:
        """What neighbors have in common: words or, if they are words, which follows which.

        With it the mean and the standard deviation of that in random order.
        """
        if _median_words(list(map(_WORD.findall, self.stripped))) < 2:
            return self.followed
        return _compared(_common, _rare_features(self.stripped))

    @cached_property
    def followed(self) -> tuple[float, float, float]:
        """The same of which line follows which: passages, as of licenses, can occur several times."""
        return _compared(_repeated_pairs, self.stripped)

    @property
    def is_unrelated(self) -> bool:
        """Whether neighbors have certainly no more in common than in random order."""
        if len(set(self.stripped)) < _MIN_LINES or _is_more_than_by_chance(*self.followed):
            return False
        observed, expected, deviation = self.common
        return expected >= _MIN_EXPECTED and observed + _DEVIATIONS * deviation <= _MAX_UNRELATED * expected

    @property
    def is_related(self) -> bool:
        """Whether neighbors have certainly more in common than in random order."""
        return _is_more_than_by_chance(*self.common)


def _compared(measure: Callable[[Sequence[Any]], float], lines: Sequence[Any]) -> tuple[float, float, float]:
    """Return a measure of lines, and its mean and standard deviation of the same lines in random order."""
    orders = [random.Random(seed).sample(lines, len(lines)) for seed in range(_SHUFFLES)]
    shuffled = list(map(measure, orders))
    return measure(lines), fmean(shuffled), stdev(shuffled)


def _is_more_than_by_chance(observed: float, expected: float, deviation: float) -> bool:
    return observed - _DEVIATIONS * deviation > _MAX_UNRELATED * max(1.0, expected)


def _fraction(lines: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, lines)) / max(1, len(lines))


def _has_no_space(line: str) -> bool:
    return not any(map(str.isspace, line))


def _is_log_of_times(lines: _Lines) -> bool:
    return lines.log.kind == "log" and lines.log.clock is not None and lines.log.clock.kind == "time"


def _is_source_code(lines: _Lines) -> bool:
    return _looks_like_code(lines) and (
        _is_indented(lines)
        or _is_repetitive(lines)
        or lines.fraction(lambda line: _STATEMENT.match(line) is not None) >= _MIN_CODE
    )


def _looks_like_code(lines: _Lines) -> bool:
    """Return whether many lines look like code, if neither Markdown nor stack traces."""
    code: Iterable[str] = lines.stripped
    stars = sum(line.startswith("* ") for line in lines.stripped)
    if _is_markdown(lines):
        code = map(_without_markdown, code)
    elif sum(line.startswith("/*") for line in lines.stripped) < _MIN_COMMENTS * stars:
        code = (line.removeprefix("* ") for line in code)
    return (
        _fraction(list(code), lambda line: bool(_CODE.search(line)) and not is_stack_frame(line)) >= _MIN_CODE
    )


def _is_markdown(lines: _Lines) -> bool:
    headings = lines.fraction(lambda line: _HEADING.match(line) is not None)
    return headings >= _MIN_HEADINGS and lines.fraction(lambda line: "](" in line) >= _MIN_LINKS


def _without_markdown(line: str) -> str:
    return _LINK.sub("", _MARKDOWN.sub("", line))


def _is_spoken(lines: _Lines) -> bool:
    """Return whether the lines are sentences, with times: of a few speakers, or with many function words."""
    times = Masks(TIMES)
    said = [_TIME_OF_DAY.sub("", times.replace(line)) for line in lines.stripped]
    labels = [match for match in map(_LABEL.match, said) if match]
    if len(labels) >= _MIN_SPOKEN * len(said):
        is_spoken = len({match[0] for match in labels}) <= _MAX_LABELS * len(said)
        sentences = [match.string[match.end() :] for match in labels]
    else:
        is_spoken = _function_words([line.split() for line in said]) >= _MIN_FUNCTION_WORDS
        sentences = said
    text = "".join(sentences)
    letters = sum(c.isalpha() or c.isspace() for c in text) / max(1, len(text))
    is_distinct = len({_NUMBER.sub("0", line) for line in said}) >= _MIN_SPOKEN * len(said)
    return is_spoken and is_distinct and letters >= _MIN_SENTENCE_LETTERS


def _is_fields(lines: _Lines) -> bool:
    """Return whether the lines are labeled fields of objects, whose labels follow each other in order."""
    labels = [match[1] for match in map(_FIELD.match, lines.stripped) if match]
    following: dict[str, Counter[str]] = {}
    for a, b in pairwise(labels):
        if a != b:
            following.setdefault(a, Counter())[b] += 1
    predicted = sum(max(counts.values()) for counts in following.values())
    return (
        len(labels) >= _MIN_LABELED * len(lines.stripped)
        and len(set(labels)) <= _MAX_LABELS * len(labels)
        and predicted >= _MIN_PREDICTED * len(labels)
    )


def _is_indented(lines: _Lines) -> bool:
    return _fraction(lines.raw, lambda line: line[0].isspace()) > _MAX_INDENTED


def _is_repetitive(lines: _Lines) -> bool:
    return len(set(lines.raw)) < _MIN_DISTINCT * len(lines.raw)


def _is_tokenized(lines: _Lines) -> bool:
    """Return whether punctuation marks are lines of their own, as in a text with one token per line."""
    return lines.fraction(lambda line: _PUNCTUATION.fullmatch(line) is not None) > _MAX_EMPTY


def _is_sequences(lines: _Lines) -> bool:
    """Return whether the lines are sequences of a few words, of different lengths."""
    lengths = sorted(map(len, lines.words))
    tenth, distinct = len(lengths) // 10, {word for line in lines.words for word in line}
    is_varied = lengths[-1 - tenth] >= _MIN_STRETCH * lengths[tenth]
    has_few = len(distinct) <= _MAX_VOCABULARY * sum(lengths)
    return is_varied and has_few and _median_words(lines.words) >= _MIN_SEQUENCE


def _is_numeric(lines: _Lines) -> bool:
    text = "".join(lines.stripped)
    letters = sum(map(str.isalpha, text)) / max(1, len(text))
    without_numbers = {_NUMBER.sub("", line) for line in lines.stripped}
    return letters < _MIN_LETTERS or len(without_numbers) < _MIN_DIFFERENT * len(set(lines.raw))


def _spaced(lines: Sequence[str]) -> float:
    """Return the fraction of letters from scripts that put spaces between words."""
    counts = Counter(filter(str.isalpha, "".join(lines)))
    spaced = sum(n for c, n in counts.items() if not unicodedata.name(c, "").startswith(_UNSPACED))
    return spaced / max(1, counts.total())


def _is_sorted(lines: Sequence[str]) -> bool:
    """Return whether lines are in alphabetical order, by one of the usual rules, apart from their numbers.

    Numbers increase in lines that are no list: the times of a song's, the verses of a chapter.
    """
    lines = [_DIGITS.sub("", line) for line in lines]
    keys: list[Callable[[str], str]] = [
        str,
        str.casefold,
        lambda line: "".join(filter(str.isalnum, line.casefold())),
    ]
    for key in keys:
        pairs = [(a, b) for a, b in pairwise(map(key, lines)) if a != b]
        n = max(1, len(pairs))
        if n >= _MIN_DISTINCT * len(lines) and sum(a < b for a, b in pairs) / n - n**-0.5 >= _MIN_SORTED:
            return True
    return False


def _is_table(lines: Sequence[str]) -> bool:
    """Return whether most lines have the same columns: two if one has numbers, or else three, or keys."""
    keys, count = Counter(tuple(_KEY.findall(line)) for line in lines).most_common(1)[0]
    if len(keys) > 2 and count >= _MIN_ROWS * len(lines):
        return True
    lines = [_QUOTED.sub('""', line) for line in lines]
    for delimiter in "\t,;|":
        width, count = Counter(line.count(delimiter) + 1 for line in lines).most_common(1)[0]
        if width > 1 and count >= _MIN_ROWS * len(lines):
            rows = [line.split(delimiter) for line in lines if line.count(delimiter) + 1 == width]
            is_prose = any(cell.startswith(" ") for row in rows for cell in row)  # as in an address
            if width > 2 and not is_prose:
                return True
            columns = zip(*rows, strict=True)
            return any(sum(map(_is_number, column)) >= _MIN_ROWS * len(rows) for column in columns)
    return False


def _is_number(cell: str) -> bool:
    return _NUMBER_CELL.fullmatch(cell) is not None


def _is_wrapped(lines: Sequence[str]) -> bool:
    length, count = Counter(map(len, lines)).most_common(1)[0]
    return length > _WRAPPED_CHARACTERS and count >= _MIN_WRAPPED * len(lines)


def _starts_with_bracket(line: str) -> bool:
    return line.startswith(_BRACKETS)


def _ends_like_clause(line: str) -> bool:
    return line.rstrip(_CLOSING).endswith(_CLAUSE_ENDS)


def _median_words(lines: Sequence[Sequence[str]]) -> int:
    return sorted(map(len, lines))[len(lines) // 2]


def _function_words(lines: Sequence[Sequence[str]]) -> float:
    """Return the fraction of words, given line by line, that are short and frequent."""
    counts = Counter(word for line in lines for word in line)
    total = counts.total()
    frequent = (
        n
        for word, n in counts.items()
        if len(word) <= _FUNCTION_WORD_LETTERS
        and word.isalpha()
        and word.islower()
        and n >= max(3, _MIN_FUNCTION_WORD * total)
    )
    return sum(frequent) / max(1, total)


def _is_grouped(lines: Sequence[str]) -> bool:
    """Return whether lines most often begin with the word of the line before, as any two seldom do."""
    begins = [line.split(maxsplit=1)[0].casefold() for line in lines]
    by_chance = sum((count / len(lines)) ** 2 for count in Counter(begins).values())
    alike = sum(a == b for a, b in pairwise(begins))
    is_long = len(lines) >= _MIN_GROUPED_LINES
    return is_long and alike >= _MIN_GROUPED * len(lines) and by_chance <= _MAX_REPEATED_BEGINNINGS


def _rare_features(lines: Sequence[str]) -> list[dict[str | tuple[str, ...], float]]:
    """Return the rare features of each line, which are words, adjacent words and itself, with their weights.

    A feature of c lines weighs 1 / c, so all count about the same.
    """
    features: list[set[str | tuple[str, ...]]] = []
    for line in lines:
        words = _WORD.findall(line.casefold())[:_MAX_WORDS]
        adjacent = (zip(*(words[i:] for i in range(n)), strict=False) for n in _COMPARED)
        features.append({line}.union(*adjacent))
    counts = Counter(feature for own in features for feature in own)
    rare = {f: 1 / n for f, n in counts.items() if 2 <= n <= max(2, _RARE * len(lines))}
    return [{feature: rare[feature] for feature in own if feature in rare} for own in features]


def _common(lines: Sequence[dict[str | tuple[str, ...], float]]) -> float:
    """Return what lines, given by their rare features, have in common with the next _NEIGHBORS."""
    return sum(
        min(1.0, sum(a[feature] for feature in a.keys() & b.keys()))
        for distance in range(1, 1 + _NEIGHBORS)
        for a, b in zip(lines, lines[distance:], strict=False)
    )


def _repeated_pairs(lines: Sequence[str]) -> float:
    """Return how often pairs of a line and one of its next _NEIGHBORS occur again."""
    counts = (Counter(zip(lines, lines[distance:], strict=False)) for distance in range(1, 1 + _NEIGHBORS))
    return sum(count * (count - 1) / 2 for counted in counts for count in counted.values())


_RULES: tuple[tuple[Callable[[_Lines], bool], TextKind, str], ...] = (
    (lambda a: a.log.kind == "log" and _is_spoken(a), "text", "its lines are sentences, with timestamps"),
    (_is_log_of_times, "log", ""),
    (_is_source_code, "code", "most lines look like source code or markup"),
    (
        lambda a: a.log.clock is not None and _is_table(a.stripped),
        "text",
        "its lines are rows of a table, with numbers that increase",
    ),
    (lambda a: a.log.kind == "log" and not _is_fields(a), "log", ""),
    (lambda a: a.log.clock is not None, "text", "its lines have timestamps or numbers that increase"),
    (
        lambda a: len(a.raw) < _MIN_LINES,
        "text",
        f"fewer than {_MIN_LINES} lines are too few to detect another kind",
    ),
    (_is_fields, "text", "its lines are the fields of objects"),
    (
        lambda a: a.is_unrelated,
        "records",
        "neighboring lines have no more in common than lines in random order",
    ),
    # Signs that the order of the lines matters
    (lambda a: a.empty > _MAX_EMPTY, "text", "empty lines divide it into parts"),
    (_is_indented, "text", "lines are indented"),
    (_is_sequences, "records", "its lines are sequences of a few words, of different lengths"),
    (_is_repetitive, "text", "many of its lines are repeated"),
    (_is_numeric, "text", "its lines are alike except for numbers"),
    (lambda a: _is_table(a.stripped), "text", "its lines are rows of a table"),
    (lambda a: _is_wrapped(a.stripped), "text", "its lines have the same length, as if wrapped"),
    (lambda a: _is_sorted(a.stripped), "records", "its lines are sorted"),
    (lambda a: a.fraction(_starts_with_bracket) > _MAX_BRACKETED, "text", "its lines are structured data"),
    (_looks_like_code, "text", "its lines look like code"),
    (
        lambda a: _spaced(a.stripped) < _MIN_SPACED,
        "text",
        "in a script without spaces a list cannot be distinguished from sentences",
    ),
    (_is_tokenized, "text", "it has one word or punctuation mark per line"),
    (
        lambda a: a.fraction(_has_no_space) >= _MIN_SINGLE,
        "records",
        "its lines are single words or identifiers, most of them distinct",
    ),
    # Lines of several words
    (
        lambda a: len(a.raw) < _MIN_UNSORTED_LINES,
        "text",
        f"its lines have several words, are not sorted, and fewer than {_MIN_UNSORTED_LINES}",
    ),
    (
        lambda a: a.fraction(_ends_like_clause) > _MAX_SENTENCE_ENDS,
        "text",
        "many of its lines end like sentences or clauses",
    ),
    (
        lambda a: _function_words(a.words) > _MAX_FUNCTION_WORDS,
        "text",
        "its lines have the frequent short words of sentences",
    ),
    (lambda a: _median_words(a.words) > _MAX_MEDIAN_WORDS, "text", "its lines are as long as sentences"),
    (lambda a: _is_grouped(a.stripped), "records", "its lines stand in groups that begin with the same word"),
    (lambda a: a.is_related, "text", "neighboring lines have more in common than distant ones"),
    (
        lambda _: True,
        "records",
        "its lines are short, not sentences, and nothing shows that neighbors are related",
    ),
)


def default_purpose(kind: TextKind | None) -> Purpose:
    """Return what a model of a text of this kind is usually for; None: not known.

    >>> default_purpose("log"), default_purpose("records"), default_purpose("code")
    ('anomalies', 'both', 'complete')
    """
    if kind == "log":
        return "anomalies"
    return "both" if kind == "records" or kind is None else "complete"
