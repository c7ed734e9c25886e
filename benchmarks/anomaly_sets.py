"""Labeled lines: two real data sets, synthetic ones from rules and real texts, and files of labeled lines.

Each has normal lines for training, and labeled lines for the test. Synthetic sets use a fixed seed; their
rules were not tuned to any score.
"""

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_TRAINED = 0.7  # of the normal lines, the first ones


@dataclass(frozen=True)
class LabeledLines:
    """Normal training lines, and test lines with the label whether each is anomalous."""

    train: list[str]
    lines: list[str]
    anomalous: list[bool]
    masks: tuple[str, ...] = ()  # that an operator would use


def bgl(data: Path) -> LabeledLines:
    """A supercomputer's log in time order, messages only: the test set follows 70 % of the normal lines."""
    rows = [row.split("\t", 2) for row in _lines(data / "bgl_2k_labelled.tsv")]
    places = [i for i, row in enumerate(rows) if row[0] == "0"]
    cut = places[int(_TRAINED * len(places))]
    texts = [row[2].split(" ", 8)[-1] for row in rows]
    return LabeledLines(
        [texts[i] for i in places if i < cut], texts[cut:], [row[0] == "1" for row in rows[cut:]]
    )


def http_parameters(data: Path) -> LabeledLines:
    """Request parameters, normal ones and attacks."""
    return labeled_file(data / "http_params_labelled.tsv")


def labeled_file(path: Path) -> LabeledLines:
    """Rows of a label (0: normal), a kind and a line; the first 70 % of the normal lines are for training."""
    rows = [row.split("\t", 2) for row in _lines(path)]
    normal, anomalous = ([row[2] for row in rows if row[0] == label] for label in "01")
    cut = int(_TRAINED * len(normal))
    return _mixed(normal[:cut], normal[cut:], anomalous)


def sshd(data: Path) -> LabeledLines:
    """An SSH server's log in time order; anomalies: lines with one error, and lines of other programs."""
    draw = random.Random(1)
    lines = _lines(data / "openssh_2k.log")
    cut = int(_TRAINED * len(lines))
    strange = (
        "kernel: Out of memory: Kill process 811 (mysqld)",
        "Accepted publickey for root from 52.12.9.1 port 22 ssh2",
        "fatal: buffer_get_ret: trying to get more bytes 1 than in buffer 0",
        "Bad protocol version identification 'GET / HTTP/1.1' from 81.1.2.3",
        "segfault at 0 ip 00007f3a sp error 4 in libc",
    )
    anomalous = []
    for line in draw.sample(lines[cut:], 200):
        head, mark, message = line.partition("]: ")
        anomalous.append(
            head + mark + (draw.choice(strange) if draw.random() < 0.35 else _broken(message, draw))
        )
    labeled = _mixed(lines[:cut], lines[cut:], [line for line in anomalous if line not in set(lines)])
    return replace(labeled, masks=("timestamp",))


def blocks(_: Path) -> LabeledLines:
    """Event sequences of file system blocks; anomalies are truncated, or lack, repeat or swap events."""
    draw = random.Random(2)

    def as_line(events: Sequence[str]) -> str:
        return " ".join("E" + event for event in events)

    train = [as_line(_block(draw)) for _ in range(4000)]
    normal = [as_line(_block(draw)) for _ in range(2000)]
    return _mixed(train, normal, [as_line(_anomalous_block(draw)) for _ in range(300)])


def _block(draw: random.Random) -> list[str]:
    replicas = draw.choice([3, 3, 3, 3, 2, 4])
    events = ["5"] * 3 + ["22"]
    draw.shuffle(events)
    received = acknowledged = replicas
    while received or acknowledged:
        if received and ((received >= acknowledged and draw.random() < 0.75) or not acknowledged):
            events.append("11")
            received -= 1
        else:
            events.append("9")
            acknowledged -= 1
    events += ["26"] * replicas
    if draw.random() < 0.25:
        events += [
            e for _ in range(draw.randrange(1, 4)) for e in draw.choice(["3 4", "4 3", "3", "4"]).split()
        ]
    if draw.random() < 0.15:
        events += ["18", "25", "16"] * draw.randrange(1, 3)
    if draw.random() < 0.6:
        events += ["23"] * replicas + ["21"] * replicas
    return events


def _anomalous_block(draw: random.Random) -> list[str]:
    events, kind = _block(draw), draw.randrange(6)
    place = draw.randrange(4, len(events) - 3)
    match kind:
        case 0:
            return events[: draw.randrange(2, 6)]
        case 1:
            del events[place]
        case 2:
            events.insert(place, draw.choice(["20", "7", "28", "10", "14", "6"]))
        case 3:
            events[place : place + 4] = events[place : place + 4][::-1]
        case 4:
            events += ["20"] * draw.randrange(1, 3)
        case _:
            events[place:place] = draw.choice([["26", "9"], ["5", "5", "5"], ["21", "11"], ["18", "18"]])
    return events


def system_calls(_: Path) -> LabeledLines:
    """Traces of ten programs, Markov chains over call numbers; anomalies contain another program's calls."""
    draw = random.Random(3)
    calls = [draw.randrange(1, 340) for _ in range(70)]

    def program() -> dict[int, list[int]]:
        own = draw.sample(calls, 22)
        return {call: draw.sample(own, 3) for call in own}

    def run(chain: dict[int, list[int]], steps: int) -> list[int]:
        call, trace = draw.choice(list(chain)), []
        for _ in range(steps):
            trace.append(call)
            follows = chain[call]
            likely = follows[0] if draw.random() < 0.7 else draw.choice(follows)
            call = likely if draw.random() < 0.97 else draw.choice(list(chain))
        return trace

    programs, intruders = [program() for _ in range(10)], [program() for _ in range(3)]

    def normal() -> list[int]:
        return run(draw.choice(programs), int(draw.lognormvariate(4.3, 0.7)) + 20)

    def anomalous() -> list[int]:
        trace = normal()
        place = draw.randrange(len(trace))
        return trace[:place] + run(draw.choice(intruders), draw.randrange(6, 25)) + trace[place:]

    def as_line(trace: list[int]) -> str:
        return " ".join(map(str, trace))

    train = [as_line(normal()) for _ in range(700)]
    return _mixed(train, [as_line(normal()) for _ in range(400)], [as_line(anomalous()) for _ in range(200)])


def domains(data: Path) -> LabeledLines:
    """Domains of one or two words; anomalies have random letters, syllables, or three words."""
    draw = random.Random(4)
    words = _words(data)
    ends = ["com"] * 10 + ["net", "org", "de", "co.uk", "io", "info", "ru", "fr"]

    def word() -> str:
        return words[min(int(draw.expovariate(1 / 1500)), len(words) - 1)]

    def normal() -> str:
        kind = draw.random()
        if kind < 0.35:
            return word()
        if kind < 0.8:
            return word() + word()
        return word() + "-" + word() if kind < 0.9 else word() + str(draw.randrange(1, 1000))

    def anomalous() -> str:
        kind = draw.random()
        if kind < 0.5:
            letters = string.ascii_lowercase + string.digits * (kind < 0.2)
            return "".join(draw.choices(letters, k=draw.randrange(8, 22)))
        if kind < 0.8:
            return "".join(
                draw.choice("bcdfglmnprst") + draw.choice("aeiou") for _ in range(draw.randrange(4, 7))
            )
        return word() + word() + word()

    def made(name: Callable[[], str], count: int) -> list[str]:
        return [f"{name()}.{draw.choice(ends)}" for _ in range(count)]

    return _mixed(made(normal, 6000), made(normal, 2000), made(anomalous, 800))


def requests(data: Path) -> LabeledLines:
    """Requests to a shop; anomalies: attacks in values, wrong field names, and missing pages."""
    draw = random.Random(5)
    words = _words(data)
    pages = {
        "login.jsp": ["user", "pass", "remember"],
        "cart/add.jsp": ["id", "name", "price", "qty"],
        "search.jsp": ["q", "page"],
        "register.jsp": ["login", "name", "email", "zip", "city"],
    }
    attacks = (
        "'+OR+'1'%3D'1", "%3Cscript%3Ealert(1)%3C/script%3E", "../../../../etc/passwd", "%0D%0ASet-cookie%3A",
        "|+ls+-la", "1%3BDROP+TABLE+users", "A" * 60, "%00", "$%7B7*7%7D", '"><img+src=x>',
    )  # fmt: skip

    def word() -> str:
        return words[min(int(draw.expovariate(1 / 400)), len(words) - 1)]

    values: dict[str, Callable[[], str]] = {
        "id": lambda: str(draw.randrange(1, 500)),
        "price": lambda: f"{draw.randrange(1, 99)}.{draw.choice(['00', '50', '99'])}",
        "qty": lambda: str(draw.randrange(1, 20)),
        "page": lambda: str(draw.randrange(1, 9)),
        "zip": lambda: f"{draw.randrange(99999):05}",
        "email": lambda: f"{word()}%40{word()}.com",
        "pass": lambda: "".join(
            draw.choices(string.ascii_lowercase + string.digits, k=draw.randrange(6, 14))
        ),
        "remember": lambda: draw.choice(["on", "off"]),
    }

    def fields() -> tuple[str, list[list[str]]]:
        page = draw.choice(list(pages))
        other = lambda: "+".join(word() for _ in range(draw.randrange(1, 4)))  # noqa: E731
        return page, [[name, values.get(name, other)()] for name in pages[page]]

    def as_line(page: str, query: list[list[str]]) -> str:
        asked = "&".join(f"{name}={value}" for name, value in query)
        return f"{draw.choice(['GET', 'GET', 'POST'])} /shop/{page}?{asked} HTTP/1.1"

    def anomalous() -> str:
        page, query = fields()
        one = draw.choice(query)
        match draw.randrange(4):
            case 0:
                one[1] += draw.choice(attacks)
            case 1:
                one[1] = draw.choice(attacks)
            case 2:
                one[0] += draw.choice(["A", "1", "B"])
            case _:
                page += draw.choice([".bak", "~", ".old", ".inc"])
        return as_line(page, query)

    train = [as_line(*fields()) for _ in range(5000)]
    return _mixed(train, [as_line(*fields()) for _ in range(2000)], [anomalous() for _ in range(500)])


SETS: dict[str, Callable[[Path], LabeledLines]] = {
    "bgl": bgl,
    "http": http_parameters,
    "sshd": sshd,
    "blocks": blocks,
    "calls": system_calls,
    "domains": domains,
    "requests": requests,
}


def _mixed(train: list[str], normal: list[str], anomalous: list[str]) -> LabeledLines:
    """Shuffle the test lines."""
    judged = [(line, False) for line in normal] + [(line, True) for line in anomalous]
    random.Random(0).shuffle(judged)
    return LabeledLines(train, [line for line, _ in judged], [truth for _, truth in judged])


def _lines(path: Path) -> list[str]:
    return [line.removesuffix("\r") for line in path.read_bytes().decode().split("\n") if line.strip()]


def _words(data: Path) -> list[str]:
    text = "".join((data / name).read_text("utf-8") for name in ("nietzsche.txt", "tinyshakespeare.txt"))
    return [word for word, _ in Counter(re.findall(r"[a-z]{3,10}", text.lower())).most_common(9000)]


def _broken(message: str, draw: random.Random) -> str:
    """Return a message with an error in one of its words."""
    words = message.split(" ")
    place = draw.randrange(len(words))
    match draw.randrange(5):
        case 0:
            words.insert(place, words[draw.randrange(len(words))])
        case 1:
            del words[place]
        case 2:
            words[place] = "".join(
                draw.choices(string.ascii_lowercase + string.digits, k=max(4, len(words[place])))
            )
        case 3:
            words[place] = "".join(draw.sample(words[place], len(words[place])))
        case _:
            words[place] = draw.choice(
                ["%27", "../../etc/passwd", "'or'1'='1", "<script>", "$(id)", "0xdeadbeef"]
            )
    return " ".join(words)
