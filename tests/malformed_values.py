"""A log whose values are all masked, and lines of it with a malformed value each."""

import random

MASKS = ("timestamp", "date", "uuid", "ip", "hex", "long_numbers", "digits")


def log(lines: int) -> list[str]:
    """The first so many lines of a log of three kinds of messages."""
    chance = random.Random(3)
    result = []
    for i in range(lines):
        time = f"2026-05-{1 + i // 86400:02d} {i // 3600 % 24:02d}:{i // 60 % 60:02d}:{i % 60:02d}"
        address = ".".join(str(chance.randrange(1, 256)) for _ in range(4))
        messages = (
            f"accepted {address} port {chance.randrange(1024, 65536)} trace={_uuid(chance)}",
            f"stored block {_hex(chance, 24)} at 0x{_hex(chance, 8)} as part {i:08d}",
            (
                f"load cpu {chance.randrange(1, 101)}% after {chance.randrange(10, 900)}ms"
                f" of epoch {1_777_600_000 + i}"
            ),
        )
        result.append(f"{time} node: {messages[i % 3]}")
    return result


def _hex(chance: random.Random, digits: int) -> str:
    return "".join(chance.choice("0123456789abcdef") for _ in range(digits - 1)) + "7"


def _uuid(chance: random.Random) -> str:
    return "-".join(_hex(chance, digits) for digits in (8, 4, 4, 4, 12))


_START = "2026-05-01 07:08:09 node: "
_UUID = "0a1b2c3d-1111-4222-8333-123456789ab7"
_ACCEPTED = f"{_START}accepted 10.20.30.40 port 40123 trace={_UUID}"
_STORED = _START + "stored block 0123456789abcdef01234567 at 0x12ab34c7 as part 00000999"
_LOAD = _START + "load cpu 42% after 321ms of epoch 1777600999"

WELL_FORMED = (_ACCEPTED, _STORED, _LOAD, _LOAD.replace("321ms", "4321ms"), _ACCEPTED.replace("40123", "80"))

MALFORMED = {
    name: (line.replace(old, new), new)
    for name, line, old, new in (
        ("month", _LOAD, "2026-05-01 07:08:09", "2026-13-45 07:08:09"),
        ("hour", _LOAD, "2026-05-01 07:08:09", "2026-05-01 27:08:09"),
        ("octet", _ACCEPTED, "10.20.30.40", "999.1.2.3"),
        ("port", _ACCEPTED, "40123", "70123"),
        ("uppercase uuid", _ACCEPTED, _UUID, _UUID.upper()),
        ("short hex", _STORED, "0123456789abcdef01234567", "0123456789abcdef012"),
        ("hex prefix", _STORED, "0x12ab34c7", "12ab34c7"),
        ("uppercase hex", _STORED, "0x12ab34c7", "0x12AB34C7"),
        ("padding", _STORED, "00000999", "00000000999"),
        ("percentage", _LOAD, "42%", "4000%"),
        ("short epoch", _LOAD, "1777600999", "17776009"),
        ("long duration", _LOAD, "321ms", "32100000ms"),
    )
}  # fmt: skip
"""By what is malformed: the line and the value."""
