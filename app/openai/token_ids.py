"""Character ids as other protocols' token ids."""

from collections.abc import Sequence

import numpy as np

from nextchar.models.errors import InvalidInput
from nextchar.models.text.vocabulary import Vocabulary

UNKNOWN = "\uffff"
"""Represents id 0 among characters; U+FFFF is a noncharacter, so no vocabulary has it."""


def characters_of(ids: Sequence[int], vocabulary: Vocabulary, *, param: str = "prompt") -> str:
    """Return the characters with these ids; id 0 becomes UNKNOWN.

    Raises:
        InvalidInput: an id is not in the vocabulary; `param` names the field that has it.
    """
    largest = int(np.max(ids, initial=0))
    if largest >= len(vocabulary):
        raise InvalidInput(
            f"{param} has the id {largest}; this model's characters have ids from 0, unknown, to"
            f" {len(vocabulary) - 1}",
            code="unknown_id",
            param=param,
        )
    characters = UNKNOWN + vocabulary.characters
    return "".join([characters[character_id] for character_id in ids])


def token(character: str, vocabulary: Vocabulary) -> str:
    """Return how a character is shown as a token."""
    return "\ufffd" if character == UNKNOWN else vocabulary.label(character)
