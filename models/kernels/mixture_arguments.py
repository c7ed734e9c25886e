"""The arguments of `mixture.mix` and `mixture_training`: arrays, and the layout of a row's state."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ORDER = 6
"""Length of the longest n-grams, in characters."""

MATCH_CHARACTERS = 7
"""A match in the training text begins when so many characters are the same."""

REPEAT_CHARACTERS = 4
"""A match in a row's own history begins when so many characters are the same; `mixture` compares four."""

HISTORY = 2048
"""Characters of its own history that a row keeps."""

MAX_MATCH = 64
"""Longer matches count as this long."""

# Columns of a row's state, int32. All zeros is the state before the first character.
NODES = 0
"""ORDER - 1 columns: the tree's node of the last 1, 2, ... characters; 0 if they do not occur in it."""
MATCH_AT = ORDER - 1
"""The position in the training text of the predicted character; 0 without a match."""
MATCH_LENGTH = MATCH_AT + 1
REPEAT_DISTANCE = MATCH_AT + 2
"""How many characters before the next one the same characters occurred in the history; 0 if nowhere."""
REPEAT_LENGTH = MATCH_AT + 3
PAST = MATCH_AT + 4
"""HISTORY uint16 ids, newest last; 0 for unknown ids and those above 65535."""
STATE_COLUMNS = PAST + HISTORY // 2

# Columns of features, int32: the nodes as above, then
MATCH_ID = ORDER - 1
"""The character that the match in the training text predicts, or 0."""
MATCH_BUCKET = MATCH_ID + 1
REPEAT_ID = MATCH_ID + 2
"""The character that the match in the history predicts, or 0."""
REPEAT_BUCKET = MATCH_ID + 3
FEATURES = MATCH_ID + 4

# Sizes of the tables of weights, and where each begins in the vector of all.
CONTEXTS = 6 * ORDER
LENGTHS = 16
BY_CONTEXT = 0
"""(CONTEXTS, 2) weights of the network and of the n-grams, by the longest context that the n-grams know: its
length, how many different characters followed it, and whether it is frequent."""
MATCH_BOOSTS = BY_CONTEXT + 2 * CONTEXTS
"""(LENGTHS,) added to the logit of the character that a match in the training text predicts, by length."""
REPEAT_BOOSTS = MATCH_BOOSTS + LENGTHS
"""(LENGTHS,) the same for a match in the history."""
WEIGHTS = REPEAT_BOOSTS + LENGTHS


FIRST_CHILD, TOTAL = 0, 1
"""Columns of `Experts.contexts`."""

ID, COUNT = 0, 1
"""Columns of `Experts.nodes`."""


class Experts(NamedTuple):
    """The experts other than the network. The n-grams are a tree whose nodes are numbered level by level.

    Node 0 is the root. A node's children are consecutive and sorted by id.
    """

    contexts: NDArray[np.int32]
    """(inner nodes + 1, 2) of each node above the last level the first child, and the sum of its children's
    counts; the last row has the number of all nodes."""
    nodes: NDArray[np.int32]
    """(nodes, 2) the last id of each n-gram, and how often it occurs: 0 times if that id is unknown."""
    unigrams: NDArray[np.float32]
    """(2, V) probability of each character without context, and its natural logarithm."""
    text: NDArray[np.int32]
    """(N,) the end of the training text."""
    positions: NDArray[np.int32]
    """(2**k,) by the hash of MATCH_CHARACTERS ids, the position in `text` after the last occurrence; or 0."""
    weights: NDArray[np.float32]
    """(WEIGHTS,)"""
