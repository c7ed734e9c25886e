"""The memory that JSON takes when it is parsed, from its bytes: up to 27 times as much as these."""

import numpy as np

from nextchar.models.errors import TooLarge

MAX_CONTAINERS = 100_000
"""Lists, objects and fields in a body. No call has a use for more than some thousands."""

MAX_VALUES = 1_100_000
"""Values in the lists and objects of a body: the longest list of a call has a million."""

_CONTAINER_BYTES = 256
_VALUE_BYTES = 64


def parsed_bytes(data: bytes) -> int:
    """Return how many bytes the values of JSON take at most when parsed, in addition to their text.

    Raises:
        TooLarge: there are more than MAX_CONTAINERS or MAX_VALUES.
    """
    plain = data.replace(rb"\\", b"__").replace(rb"\"", b"__")  # a quote now begins or ends a string
    characters = np.frombuffer(plain, np.uint8)
    quotes = np.cumsum(characters == ord('"'), dtype=np.uint8)  # modulo 256
    syntax = characters[quotes & 1 == 0]
    containers = sum(int(np.count_nonzero(syntax == one)) for one in b"[{:")
    values = int(np.count_nonzero(syntax == ord(",")))
    if containers > MAX_CONTAINERS or values > MAX_VALUES:
        raise TooLarge(
            f"the body has {containers:,} lists, objects and fields and {values:,} values, more than"
            f" {MAX_CONTAINERS:,} or {MAX_VALUES:,}; no call takes so many",
            code="too_many_values",
            param="body",
        )
    return containers * _CONTAINER_BYTES + values * _VALUE_BYTES
