r"""Events of a log: a line and those after it that belong to it, such as a stack trace or a query.

What opens an event is learned from the lines of the training text (`Opener.learn`) and stored with the
model's templates, so training, scoring and ingestion divide a log in the same way:

- If some lines have a time, a line opens an event if its time stands where theirs do.
- Else a line opens one unless it has a mark of continuation: it is indented, empty, a closing bracket, a
  frame of a stack trace, or names an exception.

If a log's other lines all have such marks, a line without a mark opens an event, too. A log whose events have
one line each has no opener, and each of its lines is an event.

>>> log = ["09:00:01 started", "09:00:02 failed", "ValueError: a", "  in f", "09:00:03 stopped"]
>>> opener = Opener.learn(4 * log)
>>> list(events_of(opener, log))
['09:00:01 started', '09:00:02 failed\nValueError: a\n  in f', '09:00:03 stopped']
>>> Opener.learn(["09:00:01 started", "09:00:02 failed"]) is None
True
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise
from operator import ne
from typing import Any, Self

from nextchar.models.text.lines import MAX_LINE_CHARACTERS, InputLine
from nextchar.models.text.log_clock import is_stack_frame, time_place
from nextchar.models.text.masks import PLACEHOLDERS

MAX_LINES = 500
"""Maximum lines of an event; the next line opens another."""

WAIT_S = 2.0
"""How long a line is waited for that may belong to the last event."""

_PREFIX = re.compile(r"^(?:\S+ std(?:out|err) [FP] |[\w.-]+ +\| )")  # of Kubernetes, of Docker Compose
_EXAMINED_CHARACTERS = 1_000  # of a line
_MIN_PREFIXED = 0.95  # fraction of the lines
_MIN_EVENTS = 3  # of several lines
_MAX_WORDS = 5  # before the time that a line begins with
_MIN_OBJECT_CHARACTERS = 8
_MIN_PLACED = 0.01  # fraction of the lines that have a time at a place where events begin
_MIN_INDENTED = 0.5  # the same where lines are indented, as before a level that is aligned to the right
_MIN_HEADS = 0.02  # fraction of the lines that have a time at such places
_MIN_PLAIN = 0.02  # fraction of the lines that continue an event that have no mark
_MIN_CONTINUED = 0.02  # fraction of the lines that continue an event, if most of these have no mark

_EXCEPTION = r"(?:[\w$]+[./:]{1,2})*[\w$]*(?:Exception|Error|Throwable|Panic|Interrupt|Warning|NotFound)\b"
_CONTINUATION = re.compile(
    r"\s|$|[)\]}]|Caused by: |Suppressed: |Wrapped by: |Traceback \(most recent|During handling of the above|"
    r"The above exception was|\.\.\. \d+ (?:more|common)|--- |goroutine \d+ \[|created by |\[stacktrace\]|"
    r"[\w./*-]+(?:\(\*?[\w.]+\)[\w.]*)?\([^()]*\)$|" + _EXCEPTION + r"(?:[ :(]|$)"
)
_CAUSE = re.compile(r"\s*(?:(?:Caused|Wrapped) by: |Suppressed: )?(" + _EXCEPTION + r")")
_FUNCTIONS = (  # of frames of Java, .NET and JavaScript; Python; Ruby; PHP; Go; C
    re.compile(r"\s*at (?:async |new )?([^\s(\[]+)"),
    re.compile(r"\s*File \"([^\"]+)\", line \S+ in (\S+)"),
    re.compile(r"\s*(?:from )?(\S+\.rb):\d+:in [`'](?:block .*in )?([^'`]+)"),
    re.compile(r"#\d+ +\S+?(?:\(\d+\))?: ([^\s(]+)"),
    re.compile(r"([\w./*()-]+)\([^()]*\)$"),
    re.compile(r"\s*#\d+ +(?:0x\w+ )?(?:in )?([A-Za-z_][\w:]*)"),
)
_RUNTIME = re.compile(
    r"(?:java|javax|jdk|sun|com\.sun|jakarta|kotlin|scala|clojure|System|Microsoft|Object|Array|Promise|Module|"
    r"process|runtime|net/http|internal)(?:[./]|$)|node:|\(?internal/|.*(?:/lib/python|site-packages|/gems/|/ruby/|"
    r"node_modules|/vendor/)|__libc_|_start$"
)
_GENERATED = re.compile(r"\$\$.*?(?=\.)|\$?[Ll]ambda\$?[\w$/]*|\$Proxy\d+|<\w+>|\d+")
_FRAMES = 3  # of the program's own, after each exception, that are in a fingerprint
_MAX_NAMES = 12
_MAX_NAME_CHARACTERS = 200
_TO_DIGITS = str.maketrans(dict.fromkeys(PLACEHOLDERS, "0"))


@dataclass(frozen=True)
class Opener:
    """Says which lines of a log open an event.

    Attributes:
        places: where times stand in lines that do (`log_clock.time_place`); empty: times say nothing.
        has_plain: whether lines without time and mark continue an event; else they open one.
        has_prefix: whether a container's runtime has written something before each line.
    """

    places: frozenset[str] = frozenset()
    has_plain: bool = False
    has_prefix: bool = False

    @classmethod
    def learn(cls, lines: Sequence[str]) -> Self | None:
        """Return the opener of the log that has these lines; None if its events have one line each."""
        own = [_PREFIX.sub("", line) for line in lines]
        if sum(map(ne, own, lines)) < _MIN_PREFIXED * len(lines):
            return cls._learn(lines)
        found = cls._learn(own)
        return found and replace(found, has_prefix=True)

    @classmethod
    def _learn(cls, lines: Sequence[str]) -> Self | None:
        found = [time_place(line) for line in lines]
        counts = Counter(place for place in found if place is not None and place.count("x") <= _MAX_WORDS)
        places = {
            place
            for place, n in counts.items()
            if n >= max(_MIN_EVENTS, (_MIN_INDENTED if place[:1].isspace() else _MIN_PLACED) * len(lines))
        }
        if sum(counts[place] for place in places) < _MIN_HEADS * len(lines):
            places = set()
        others = [
            line
            for line, place in zip(lines, found, strict=True)
            if place not in places and not _is_json(line)
        ]
        marked = sum(map(is_continuation, others))
        plain = len(others) - marked if places else 0
        has_plain = plain > _MIN_PLAIN * len(others)
        if has_plain and marked < plain and len(others) < _MIN_CONTINUED * len(lines):
            return None
        opener = cls(frozenset(places), has_plain)
        runs = [opens for opens, _ in groupby(map(opener.opens, lines))]
        return opener if runs[1:].count(False) >= _MIN_EVENTS else None

    def opens(self, line: str) -> bool:
        """Return whether a line opens an event."""
        line = self._own(line)
        if (self.places and time_place(line) in self.places) or _is_json(line):
            return True
        return not self.has_plain and not is_continuation(line)

    def continues(self, line: str) -> bool:
        """Return whether a line has a mark of continuation."""
        return is_continuation(self._own(line))

    def _own(self, line: str) -> str:
        return _PREFIX.sub("", line) if self.has_prefix else line

    def dump(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"places": sorted(self.places), "has_plain": self.has_plain, "has_prefix": self.has_prefix}

    @classmethod
    def load(cls, record: dict[str, Any]) -> Self:
        """Return what `dump` has written. Raises KeyError or TypeError: it is damaged."""
        return cls(frozenset(record["places"]), bool(record["has_plain"]), bool(record["has_prefix"]))


class EventStarts:
    """Says of lines that come one after the other with which of them an event begins.

    With `opener` None each line is one. Before the first line that opens an event only marks say what belongs
    together, so of a text that begins within an event, or is of another log, each line without a mark is one.
    """

    def __init__(self, opener: Opener | None) -> None:
        self._opener = opener
        self._has_opened = False
        self._lines = self._characters = 0  # of the event so far

    def add(self, line: str | None) -> bool:
        """Return whether an event begins with the next line; None: a line that cannot be read."""
        if self._opener is None:
            return True
        if line is None:
            self._lines = 0
            return True
        opens = self._opener.opens(line)
        self._has_opened |= opens
        continues = not opens and self._lines > 0 and (self._has_opened or self._opener.continues(line))
        self._characters += len(line) + 1
        if continues and self._lines < MAX_LINES and self._characters <= MAX_LINE_CHARACTERS:
            self._lines += 1
            return False
        self._lines, self._characters = 1, len(line) + 1
        return True


class EventJoiner:
    """Joins lines that come one after the other to events."""

    def __init__(self, opener: Opener | None) -> None:
        self._has_opener = opener is not None
        self._starts = EventStarts(opener)
        self._held: list[InputLine] = []

    @property
    def held(self) -> Sequence[InputLine]:
        """The lines so far of the last event, which may go on."""
        return self._held

    def feed(self, lines: Iterable[InputLine]) -> Iterator[InputLine]:
        """Take the next lines; yield the events that are complete."""
        for line in lines:
            if not self._has_opener:
                yield line
                continue
            if self._starts.add(line.text) and (event := self.finish()):
                yield event
            self._held.append(line)

    def finish(self) -> InputLine | None:
        """Return the last event; None if no line is held."""
        held, self._held = self._held, []
        if len(held) <= 1:
            return held[0] if held else None
        meta: dict[str, Any] = {}
        for line in reversed(held):
            meta |= line.meta
        text = "\n".join(line.text or "" for line in held)
        return InputLine(held[0].number, held[0].offset, text, meta, lines=len(held))


def events_of(opener: Opener | None, lines: Iterable[str]) -> Iterator[str]:
    """Yield the events of lines, joined by newlines."""
    joiner = EventJoiner(opener)
    events = chain(joiner.feed(InputLine(0, 0, line, {}) for line in lines), iter(joiner.finish, None))
    return (event.text for event in events if event.text is not None)


@dataclass(frozen=True)
class TextEvents:
    """Where events begin in the complete lines at the end of a text: with those whose `starts` is true.

    Masks leave the lines in their places, so these are the starts of the masked text, too.
    """

    opener: Opener
    starts: Sequence[bool]

    def of(self, lines: Sequence[str], *, after: int = 0) -> list[str]:
        """Return the events of complete lines, of which `after` more follow; their first may be cut off."""
        starts = self.starts[: len(self.starts) - after][-len(lines) :] if lines else []
        lines = lines[len(lines) - len(starts) :]
        firsts = [i for i, is_first in enumerate(starts) if is_first]
        return ["\n".join(lines[i:end]) for i, end in pairwise([*firsts, len(lines)])]


def _is_json(line: str) -> bool:
    """Return whether a line is a whole object."""
    return line.startswith("{") and line.rstrip().endswith("}") and len(line) > _MIN_OBJECT_CHARACTERS


def is_continuation(line: str) -> bool:
    """Return whether a line has a mark that it belongs to the line before."""
    head = line[:_EXAMINED_CHARACTERS]
    return _CONTINUATION.match(head) is not None or is_stack_frame(head)


def fingerprint(event: str) -> str:
    r"""Return one line that identifies an event, masked or not; an event of one line is its own.

    Of a stack trace these are the types of the exceptions and, after each, the names of the first functions
    that are the program's own.

    >>> fingerprint("failed\njava.io.IOException: x\n\tat java.io.A.b(A.java:1)\n\tat org.me.C$$e1.d(C.java)")
    'failed java.io.IOException org.me.C.d'
    """
    if "\n" not in event:
        return event
    head, *rest = event.split("\n")
    names = list(dict.fromkeys(_names(rest)))[:_MAX_NAMES]
    return " ".join([head, *names]) if names else " ".join(event.split())


def _names(lines: Sequence[str]) -> Iterator[str]:
    functions: list[str] = []  # of the frames since the last exception
    for whole in lines:
        line = _PREFIX.sub("", whole[:_EXAMINED_CHARACTERS].translate(_TO_DIGITS))
        found = next((match for pattern in _FUNCTIONS if (match := pattern.match(line))), None)
        if found:
            functions.append(_GENERATED.sub("", ":".join(found.groups())[:_MAX_NAME_CHARACTERS]))
        elif cause := _CAUSE.match(line):
            yield from _own(functions)
            functions = []
            yield cause[1]
    yield from _own(functions)


def _own(functions: Sequence[str]) -> list[str]:
    own = [function for function in functions if not _RUNTIME.match(function)]
    return (own or list(functions))[:_FRAMES]
