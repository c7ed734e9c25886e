"""The arguments of `mixture.mix` and `mixture_training.learn`: arrays, and the layout of a row's state."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# ---- contexts

ORDERS = (1, 2, 3, 4, 6)
"""The first contexts are the last characters, so many."""

CONTEXTS = len(ORDERS) + 10
WORD, WORDS, WORDS_BEFORE, COLUMN, LAYOUT, FIELD, FIELD_ABOVE, BRACKET, SHAPE, INDIRECT = range(
    len(ORDERS), CONTEXTS
)
"""The others: the word so far and what followed it; with the word before; with two words before; the column
and what is above; the column, the length of the word and what kind of character was last; the field of the
line so far; the same field of the line before and the field so far; the bracket around and the token so far;
what kinds of tokens were last and the token so far; the last character, and what followed the last two the
last two times in the history. In a table a field is a cell, the column is that in the cell, and LAYOUT has
the number of the cell instead of the length of the word."""

RARE_CONTEXTS = (WORDS_BEFORE, SHAPE)
"""Contexts of which most occur once; what followed these once is not kept."""

RECENT_KEYS = (WORD, WORDS, COLUMN, FIELD_ABOVE, FIELD, BRACKET, SHAPE)
"""Contexts that are also looked for in what the row has read, by keys that the state keeps; so are all
orders, by comparing characters."""
RECENT = len(ORDERS) + len(RECENT_KEYS)
RECENT_CONTEXTS = (*range(len(ORDERS)), *RECENT_KEYS)
"""(RECENT,) the same contexts by their numbers in the known text."""
RECENT_OF = tuple(RECENT_CONTEXTS.index(k) if k in RECENT_CONTEXTS else -1 for k in range(CONTEXTS))
"""(CONTEXTS,) the number in the history of each context, or -1."""

RUN_CONTEXTS = (1, 2, 3, 4, WORD, WORDS, FIELD_ABOVE, BRACKET, SHAPE)
"""Contexts of which one character alone is an input, too: the newest in what the row has read, by how often
in a row it followed; or if there is none, the most frequent one in the known text, by its share."""
RUNS = len(RUN_CONTEXTS)
RUN_OF = tuple(RUN_CONTEXTS.index(k) if k in RUN_CONTEXTS else -1 for k in range(CONTEXTS))
"""(CONTEXTS,) the number of each context among them, or -1."""

MAX_RECENT = 32
"""The newest places in the history that count for a context, at most this many."""

MATCH_CHARACTERS = 7
"""A match in the known text begins when this many characters are the same."""

HISTORY_MATCH_CHARACTERS = 4
"""A match in a row's own history begins when this many characters are the same: `mixture_history`
compares four."""

HISTORY_CHARACTERS = 8192
"""Characters of its own history that a row keeps."""

KEY_CHARACTERS = 2048
"""The newest of them, next to which the keys of contexts are kept."""

BLOCK = 64
"""Positions of the history that are compared at once; the oldest ones do not fill a block."""

BLOCKS, KEY_BLOCKS = HISTORY_CHARACTERS // BLOCK - 1, KEY_CHARACTERS // BLOCK - 1
"""Blocks of the history, block 0 the newest. The position of the last character read is in none."""

MAX_MATCH = 64
"""Longer matches count as this long."""

FIELDS = 16
"""Fields of a line that are told apart."""

MAX_DEPTH = 8
"""Open brackets that are known, the innermost ones."""

# ---- columns of a row's state, int32; all zeros is the state before the first character

MATCH_AT = 0
"""The position in the known text of the predicted character; 0 without a match."""
MATCH_LENGTH = 1
HISTORY_MATCH_DISTANCE = 2
"""How many characters before the next one the same characters occurred in the history; 0 if nowhere."""
HISTORY_MATCH_LENGTH = 3
WORD_HASH, WORD_BEFORE, GAP_HASH, LETTERS = range(4, 8)
"""Hashes of the word, of the one before it and of what followed the word, and the length of the word."""
LINE_COLUMN, ABOVE_DISTANCE, FIELD_NUMBER, FIELD_HASH = range(8, 12)
"""The column, how many characters before the next one the one above is, or 0, the number of the field and a
hash of it so far."""
WORD_BEFORE_THAT, TOKENS, LAST_TOKEN, DEPTH = range(12, 16)
"""A hash of the word before WORD_BEFORE; the kinds of the last 6 tokens, 5 bits each, and that of the last
character, 0 for a space; how many brackets are open, up to MAX_DEPTH."""
READ, QUOTED = range(16, 18)
"""How many characters were read, and in a table 1 between quotation marks."""
BRACKETS = 18
"""(MAX_DEPTH,) hashes of the open brackets, the word before each, and the separators since."""
FIELDS_BEFORE = BRACKETS + MAX_DEPTH
"""(FIELDS,) hashes of the fields of the line before."""
FIELDS_NOW = FIELDS_BEFORE + FIELDS
"""(FIELDS,) of this line."""
STARTS_BEFORE = FIELDS_NOW + FIELDS
"""(FIELDS,) READ at the beginning of the cells of the line before, in a table."""
STARTS_NOW = STARTS_BEFORE + FIELDS
"""(FIELDS,) of this line."""
KEYS = STARTS_NOW + FIELDS
"""(CONTEXTS,) hashes of the contexts of the next character; 0 before the first."""
HISTORY_IDS = KEYS + CONTEXTS
"""HISTORY_CHARACTERS uint16 ids, newest last; 0 for unknown ids and those above 65535."""
HISTORY_KEYS = HISTORY_IDS + HISTORY_CHARACTERS // 2
"""(len(RECENT_KEYS), KEY_CHARACTERS) uint16: the lowest bits of the keys before each of the last ids."""
STATE_COLUMNS = HISTORY_KEYS + len(RECENT_KEYS) * KEY_CHARACTERS // 2

# ---- features: what the matches and runs predict

MATCH_ID, MATCH_BUCKET, HISTORY_MATCH_ID, HISTORY_MATCH_BUCKET = range(4)
"""The predicted character or 0, and the element of `Experts.match_maps` that says how sure it is; the same of
the runs follows."""
MATCHES = 2
PREDICTIONS = MATCHES + RUNS
FEATURES = 2 * PREDICTIONS
BUCKETS, RUN_STATES = 16, 64
"""Elements of `Experts.match_maps` for each match and each run: of a run 16 steps of how often in a row, or
of the share in the known text, whether it is that, and whether something else followed, too."""
MATCH_STATES = MATCHES * BUCKETS + RUNS * RUN_STATES

# ---- a decision at a node of the tree

LANES = 16
"""Numbers of CONTEXTS or RECENT, and some unused ones: as many as a processor computes at once."""
BEFORE, PLACES, NEWEST = 0, LANES, 2 * LANES
"""Columns of a node's counts, LANES each, of the left subtree: what followed the contexts in the known text;
in the history; and there how new the newest one is, from MAX_RECENT on down, or 0."""
SIDE = 3 * LANES
"""Those of the right subtree come so many columns later."""
MATCHED = 2 * SIDE
"""(PREDICTIONS,) 1 or 2 if what a match or run predicts is in the left or right subtree."""
COUNT_COLUMNS = MATCHED + LANES

BACKOFF_CONTEXTS = (
    *(0, 1, 2, 3, 4),
    *(0, LAYOUT, COLUMN),
    *(1, FIELD, FIELD_ABOVE),
    *(0, 1, 2, WORD, 3, WORDS, 4, WORDS_BEFORE),
    *(0, 1, INDIRECT, SHAPE, BRACKET),
    *(FIELD, LAYOUT, COLUMN, SHAPE, BRACKET, FIELD_ABOVE, WORD, WORDS, WORDS_BEFORE),
)
"""Contexts of interpolated estimates, each from the most general one to the most specific one."""
BACKOFF_STARTS = (0, 5, 8, 11, 19, 24, 33)
"""Where each of them begins, and the end."""
BACKOFFS = len(BACKOFF_STARTS) - 1
BACKOFF_SHARE = 0.5
"""What the more general contexts count for in an estimate, for each different character that followed."""
RECENT_WEIGHT = 8
"""What a place in the history counts for in an estimate, where one in the known text counts as 1."""

LEARNED_BACKOFF = 3
"""The first of the estimates in which the share of the more general contexts is learned."""
LEARNED_FROM = BACKOFF_STARTS[LEARNED_BACKOFF]
LEARNED_SHARES = BACKOFF_STARTS[-1] - LEARNED_FROM
KNOWN_STATES = 64
"""States of a learned share against the known text: 8 steps of how many different characters followed the
context, times 8 of how many did."""
SHARE_STATES = KNOWN_STATES + 128
"""And from there on against the history: 8 steps of places, times 4 of different characters at them, times 4
of the known text."""
DIFFERENT_STEPS, COUNT_STEPS, PLACE_STEPS = (5, 9, 16), (6, 16, 64), (5, 9, 20)
"""The last numbers of steps 4 to 6 of each; steps 0 to 3 have one number."""

BY_RECENT = CONTEXTS
"""Inputs of the mixers, in the logistic domain: (CONTEXTS,) by maps; (RECENT,) by maps of the history;"""
BY_MATCH = BY_RECENT + RECENT
"""(PREDICTIONS,) by maps;"""
BY_BACKOFF = BY_MATCH + PREDICTIONS
"""(BACKOFFS,) by interpolated estimates."""
CONSTANT = BY_BACKOFF + BACKOFFS
BY_NETWORK = CONSTANT + 1
INPUTS = (BY_NETWORK + 8) // 8 * 8
"""Rounded up to what `dot` adds at once; the last ones are always 0."""

MAX_COUNT = 32767
"""Of an entry."""

MAX_PART_BITS, PART_SLOT_BITS = 12, 7
"""A hash table has at most 2**12 parts, by the highest bits of keys, of at least 2**7 places each. What is
found of a key depends on the other keys of its part alone, so a part can be made when it is needed."""

GROUPS = 256
"""Nodes and characters that have weights of their own; rarer ones share the last."""

PAIRS = 2048
"""Weights for nodes together with something else, by a hash."""

PAIR_SETS = 6
"""The first sets, of PAIRS rows each: by the node and the last character; the one before; the kinds of the
last two tokens and how far the word is; those of the last three; the character of the bracket's run; that of
the run of the kinds of tokens."""
SET_STARTS = (*range(0, PAIR_SETS * PAIRS, PAIRS), *(PAIR_SETS * PAIRS + n for n in (0, 40, 168)))
"""Rows of the weights: of these; by the matches; by the length of the word and the class of the last
character; by the number of the field and the column."""
SETS = len(SET_STARTS)
WEIGHT_ROWS = PAIR_SETS * PAIRS + 168 + 256

ODDS_STEPS = 24
"""Steps of the logarithm of the odds of the last estimate, between -8 and 8."""
LAST_STARTS = (0, *(GROUPS + n for n in (0, PAIRS, 2 * PAIRS, 2 * PAIRS + 40)))
"""Rows of the last weights: by node; by the node and the kinds of the last two tokens, as above; by the node
and the last two characters; by the matches; by the last estimate."""
LAST_SETS = len(LAST_STARTS)
LAST_ROWS = GROUPS + 2 * PAIRS + 40 + ODDS_STEPS

# ---- more columns of a row's state, if the mixers adapt to what is read

PREDICTED = STATE_COLUMNS
"""float32: 1 after a prediction, until its character is read."""
SHIFTS = PREDICTED + 1
"""(INPUTS + SETS,) float32: what adapting has added to the weights of inputs, in all sets, and of sets."""
CURVATURES = SHIFTS + INPUTS + SETS
"""(INPUTS + SETS,) float32: sums of the second derivatives of the surprisal, of what was read."""
PREDICTION = CURVATURES + INPUTS + SETS
"""(V,) float32: the network's logits in the last prediction."""

MAX_ADAPTED_VOCABULARY = 512
"""With a larger vocabulary the weights stay fixed, because a row's state has a number for each id."""

PRECISION, LAST_PRECISION, LIMIT = range(3)
"""Elements of `Experts.adaptation`."""
ADAPTATION = 3

# ---- what is learned

CERTAIN_STATES = 256
"""States of `Experts.maps` before this one: 16 sizes times 16 ratios of two counts."""
MAP_STATES = CERTAIN_STATES + 32
"""From there on: 16 sizes times 2 sides, where one character only has followed the context."""
RECENT_STATES = 98
"""States of `Experts.recent_maps`: two counts up to 6, and which was the newest."""

FOLDED, KIND, BRACKET_KIND = range(3)
"""Columns of `Experts.characters`."""
LINE_END, SPACE, LOWER, UPPER, DIGIT, LETTER, SIGN, RECORD_END = range(8)
"""Values of KIND. LETTER has no case; at RECORD_END, the line end of records, what was read is forgotten."""

OPENING, CLOSING, SEPARATOR, DELIMITER, QUOTE = range(1, 6)
"""Values of BRACKET_KIND for brackets, for signs between what they contain, and in a table for what is
between cells and around them; else it is 0. Of id 0 it is 1 if the text is a table."""


class Experts(NamedTuple):
    """What predicts beside the network: contexts in the known text, and mixers that learned to use them."""

    text: NDArray[np.uint16]
    """(N,) the known text; 0 for ids above 65535."""
    positions: NDArray[np.int32]
    """(2**k,) by the hash of MATCH_CHARACTERS ids, the position in `text` after the last occurrence; or 0."""
    slots: NDArray[np.uint32]
    """(k,) hash table, whose parts are probed linearly: 1 + where the entries of a context begin, in as many
    bits as that needs, and above them the lowest bits of its key; or 0."""
    singles: NDArray[np.uint32]
    """(k,) hash table of contexts that occurred once: 16 bits of the key, 16 bits of the id that followed."""
    entries: NDArray[np.uint32]
    """What followed each context: 1 bit that is set for its last entry, 15 bits of count, 16 bits of id."""
    characters: NDArray[np.int32]
    """(V, 3) of each id: the number of its lower case, what kind it is, and whether it opens or closes a
    bracket."""
    up: NDArray[np.int32]
    """(V + nodes,) of each id, and of V + each node: twice its parent node, plus 1 if it is the right child;
    the root has -1, id 0 too. A node's parent has a smaller number."""
    children: NDArray[np.int32]
    """(nodes, 2) a node, or minus an id."""
    maps: NDArray[np.float32]
    """(CONTEXTS, MAP_STATES) what two counts predict, in the logistic domain."""
    recent_maps: NDArray[np.float32]
    """(RECENT, RECENT_STATES) the same for the history."""
    match_maps: NDArray[np.float32]
    """(MATCH_STATES,) how sure a match or a run is."""
    weights: NDArray[np.float32]
    """(WEIGHT_ROWS, INPUTS) of the mixers of the first layer."""
    last_weights: NDArray[np.float32]
    """(LAST_ROWS, SETS) of the last mixers."""
    adaptation: NDArray[np.float32]
    """(ADAPTATION,) how much weights of inputs and of sets resist adapting, and up to how many times that;
    zeros: they are fixed."""
    backoffs: NDArray[np.float32]
    """(LEARNED_SHARES, SHARE_STATES) the share of the more general contexts for each context of the learned
    estimates, against the known text and against the history."""
    shares: NDArray[np.float32]
    """(nodes, 2) how often a character of the text is in each subtree of a node."""
    meetings: NDArray[np.int32]
    """(V, V) where the way up from the second id meets that from the first one, as in `up`; (0, 0) above
    MAX_ADAPTED_VOCABULARY."""

    @property
    def adapts(self) -> bool:
        """Whether the weights adapt to what is read."""
        return bool(self.adaptation[PRECISION] > 0)

    @property
    def state_columns(self) -> int:
        """The columns of a row's state."""
        return PREDICTION + len(self.characters) if self.adapts else STATE_COLUMNS
