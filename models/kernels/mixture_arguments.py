"""The arguments of `mixture.mix` and `mixture_training`: arrays, and the layout of a row's state."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ORDER = 6
"""Length of the longest n-grams, in characters."""

MATCH_CHARACTERS = 7
"""A match in the training text begins when this many characters are the same."""

HISTORY_MATCH_CHARACTERS = 4
"""A match in a row's own history begins when this many characters are the same; `mixture` compares four."""

HISTORY_CHARACTERS = 2048
"""Characters of its own history that a row keeps."""

BLOCK = 64
"""Positions of the history that are compared at once; the oldest ones do not fill a block."""

BLOCKS = HISTORY_CHARACTERS // BLOCK - 1
"""Blocks of the history, block 0 the newest. The position of the last character read is in none."""

RECENT_CHARACTERS = 2
"""The n-grams of the history that count have more than this many characters."""

MAX_RECENT = 32
"""The newest places in the history that add to the n-grams, at most this many."""

MAX_MATCH = 64
"""Longer matches count as this long."""

# Columns of a row's state, int32. All zeros is the state before the first character.
NODES = 0
"""ORDER - 1 columns: the tree's node of the last 1, 2, ... characters; 0 if they do not occur in it."""
MATCH_AT = ORDER - 1
"""The position in the training text of the predicted character; 0 without a match."""
MATCH_LENGTH = MATCH_AT + 1
HISTORY_MATCH_DISTANCE = MATCH_AT + 2
"""How many characters before the next one the same characters occurred in the history; 0 if nowhere."""
HISTORY_MATCH_LENGTH = MATCH_AT + 3
RESUMED_AT = MATCH_AT + 4
"""The position in the training text of the character that the resumed match predicts; 0 without one."""
RESUMED_QUALITY = MATCH_AT + 5
"""0 to MAX_MATCH: one more for each character that it predicts, a quarter and two less for an error."""
RESUMED_RUN = MATCH_AT + 6
"""How many characters it has predicted since its last error, up to MAX_MATCH."""
HISTORY_IDS = MATCH_AT + 7
"""HISTORY_CHARACTERS uint16 ids, newest last; 0 for unknown ids and those above 65535."""
STATE_COLUMNS = HISTORY_IDS + HISTORY_CHARACTERS // 2

# More columns, if the weights adapt to what is read.
CONTEXT = STATE_COLUMNS
"""1 + the row of the weights by context in the prediction after the last character; 0 without one."""

# Columns of features, int32: the nodes as above, then
MATCH_ID = ORDER - 1
"""The character that the match in the training text predicts, or 0."""
MATCH_BUCKET = MATCH_ID + 1
HISTORY_MATCH_ID = MATCH_ID + 2
"""The character that the match in the history predicts, or 0."""
HISTORY_MATCH_BUCKET = MATCH_ID + 3
RESUMED_ID = MATCH_ID + 4
"""The character that the resumed match predicts, or 0."""
RESUMED_BUCKET = MATCH_ID + 5
FEATURES = MATCH_ID + 6

# Sizes of the tables of weights, and where each begins in the vector of all.
CONTEXTS = 6 * ORDER
LENGTHS = 16
BY_CONTEXT = 0
"""(CONTEXTS, 2) weights of the network and of the n-grams, by the longest context that the n-grams know: its
length, how many different characters followed it, and whether it is frequent."""
MATCH_BOOSTS = BY_CONTEXT + 2 * CONTEXTS
"""(LENGTHS,) added to the logit of the character that a match in the training text predicts, by length."""
HISTORY_MATCH_BOOSTS = MATCH_BOOSTS + LENGTHS
"""(LENGTHS,) the same for a match in the history."""
RESUMED_BOOSTS = HISTORY_MATCH_BOOSTS + LENGTHS
"""(16,) the same for the resumed match, by four steps of its quality and four of its run."""
WEIGHTS = RESUMED_BOOSTS + 16

GROUPS = 5
"""Weights of the network, of the n-grams, boosts by matches in the training text, in the history, and by
resumed ones. What the last three predict is in every second column of the features from MATCH_ID on."""
SHIFTS = CONTEXT + 1
"""(WEIGHTS + GROUPS,) float32: what adapting has added to each weight, and to all of a group."""
CURVATURES = SHIFTS + WEIGHTS + GROUPS
"""(WEIGHTS + GROUPS,) float32: sums of the second derivatives of the surprisal, of what was read."""
PREDICTIONS = CURVATURES + WEIGHTS + GROUPS
"""(2, V) float32: the network's logits, and the logarithms of the n-grams, in the last prediction."""

MAX_ADAPTED_VOCABULARY = 512
"""With a larger vocabulary the weights stay fixed, because a row's state has two numbers for each id."""

RECENT_WEIGHT, SET_PRECISION, BOOST_PRECISION, ALL_SETS_PRECISION, ALL_BOOSTS_PRECISION = range(5)
"""Elements of `Experts.adaptation`."""
ADAPTATION = 5

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
    adaptation: NDArray[np.float32]
    """(ADAPTATION,) how many times an n-gram counts in the history, 0 for not at all; and the precisions by
    which the weights resist adapting (see `mixture.adapt`): of those by context, of boosts, of what is added
    to all of a group by context, and to all boosts. With precisions of 0 the weights are fixed."""

    @property
    def adapts(self) -> bool:
        """Whether the weights adapt to what is read."""
        return bool(self.adaptation[SET_PRECISION] > 0)

    @property
    def state_columns(self) -> int:
        """The columns of a row's state."""
        return PREDICTIONS + 2 * self.unigrams.shape[1] if self.adapts else STATE_COLUMNS
