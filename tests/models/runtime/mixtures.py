"""A mixture in plain Python, character by character, to compare the kernels with."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.mixture_arguments import (
    BACKOFF_CONTEXTS,
    BACKOFF_SHARE,
    BACKOFF_STARTS,
    BRACKET,
    BUCKETS,
    BY_NETWORK,
    CERTAIN_STATES,
    CLOSING,
    CONTEXTS,
    DELIMITER,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_CHARACTERS,
    INPUTS,
    KEY_CHARACTERS,
    KNOWN_STATES,
    LAST_PRECISION,
    LAST_STARTS,
    LEARNED_FROM,
    LIMIT,
    MATCH_CHARACTERS,
    MATCHES,
    MAX_MATCH,
    MAX_RECENT,
    OPENING,
    ORDERS,
    PAIRS,
    PRECISION,
    QUOTE,
    RARE_CONTEXTS,
    RECENT_CONTEXTS,
    RECENT_KEYS,
    RECENT_WEIGHT,
    RECORD_END,
    RUN_CONTEXTS,
    RUN_STATES,
    SEPARATOR,
    SET_STARTS,
    SETS,
    SHAPE,
    Experts,
)
from nextchar.models.runtime.mixture import Learned, experts_of
from nextchar.models.runtime.mixture_learning import beginning, characters_of
from nextchar.models.text.symbol_tree import symbol_tree
from nextchar.models.text.vocabulary import Vocabulary

ADAPTATION = np.array([50, 80, 20], np.float32)


def learned_for(text: str, vocabulary: Vocabulary, *, seed: int = 0, is_records: bool = False) -> Learned:
    """Return maps and weights that are random, so that each counts."""
    random, ids = np.random.default_rng(seed), vocabulary.encode(text)
    characters = characters_of(ids, vocabulary, is_records=is_records)
    learned = beginning(characters, symbol_tree(ids, characters[:, 1]))
    changed = {
        name: (getattr(learned, name) + random.normal(0, scale, getattr(learned, name).shape)).astype("f4")
        for name, scale in (
            ("recent_maps", 0.3),
            ("match_maps", 0.3),
            ("weights", 0.1),
            ("last_weights", 0.1),
        )
    }
    maps = learned.maps + np.where(learned.maps == 0, 0, random.normal(0, 0.3, learned.maps.shape))
    changed["recent_maps"][:, 0] = 0
    changed["backoffs"] = random.uniform(0.05, 0.95, learned.backoffs.shape).astype("f4")
    return learned._replace(maps=maps.astype("f4"), adaptation=ADAPTATION, **changed)


def experts_for(text: str, vocabulary: Vocabulary, **options: object) -> Experts:
    return experts_of(vocabulary.encode(text), learned_for(text, vocabulary, **options))  # type: ignore[arg-type]


def length_bucket(length: int) -> int:
    if length < 16:
        return (length + 1) // 2
    return 5 + length // 4 if length < 32 else min(BUCKETS - 1, 12 + length // 32)


def step(n: int, a: int, b: int, c: int) -> int:
    """Return 0 to 3 for these numbers, 4 to 6 for those up to a, b and c, else 7."""
    return n if n < 4 else 4 + sum(n > last for last in (a, b, c))


def pair(a: int, node: int) -> int:
    """Return the row of a number and a node among PAIRS."""
    return (a * 0x9E3779B1 + node * 0x85EBCA6B) // 2**21 % PAIRS


def common_suffix(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b), MAX_MATCH) and a[-1 - length] == b[-1 - length] > 0:
        length += 1
    return length


class Reader:
    """What contexts a text has: tuples, where the kernels have hashes."""

    def __init__(self, characters: NDArray[np.int32]) -> None:
        self.folded, self.kinds, self.bracket_kinds = characters.T
        self.forget()

    def forget(self) -> None:
        self.read: list[int] = []
        self.word: tuple[int, ...] = ()
        self.before: tuple[int, ...] = ()
        self.gap: tuple[int, ...] = ()
        self.fields: list[tuple[int, ...]] = []
        self.fields_above: list[tuple[int, ...]] = []
        self.field: tuple[int, ...] = ()
        self.number = self.column = self.above = 0
        self.starts: list[int] = []
        self.starts_above: list[int] = []
        self.is_quoted = False
        self.before_that: tuple[int, ...] = ()
        self.tokens: list[int] = []
        self.last_token = 0
        self.brackets: list[tuple[object, ...]] = []

    def push(self, c: int) -> None:
        kind = self.kinds[c]
        if kind == RECORD_END:
            self.forget()
            kind = 0
        before = self.read[-1] if self.read else 0
        self.read.append(c)
        if kind in (2, 3, 5) or (kind == 4 and self.word):
            if self.gap or not self.word:
                if self.word:
                    self.before_that, self.before = self.before, self.word
                self.word, self.gap = (), ()
            self.word = (*self.word, int(self.folded[c]))
        else:
            self.gap = (*self.gap, c)
        if self.bracket_kinds[0]:
            self.push_to_cell(c, kind)
        else:
            self.push_to_field(c, kind, before)
        self.push_token(c, kind)

    def push_to_cell(self, c: int, kind: int) -> None:
        self.is_quoted ^= bool(self.bracket_kinds[c] == QUOTE)
        if kind and (self.is_quoted or self.bracket_kinds[c] != DELIMITER):
            self.column, self.field = self.column + 1, (*self.field, c)
            return
        self.fields = [*self.fields[:15], self.field]
        self.column, self.field, self.number = 0, (-1, c), self.number + 1
        if not kind:
            self.is_quoted, self.number = False, 0
            self.fields_above, self.fields = self.fields, []
            self.starts_above, self.starts = self.starts, []
        here, place = len(self.read), min(self.number, 15)
        self.starts = [*self.starts, *[0] * (place - len(self.starts)), 0][: place + 1]
        self.starts[place] = here
        above = self.starts_above[place] if place < len(self.starts_above) else 0
        self.above = here - above if above else 0

    def push_to_field(self, c: int, kind: int, before: int) -> None:
        self.column += 1
        if kind == 0:
            self.above, self.column = self.column, 0
            self.fields_above, self.fields = self.fields, []
            self.number, self.field = 0, ()
        elif kind == 1 or (kind == 6 and before != c):
            self.fields = [*self.fields[:15], self.field]  # the last place is that of all later fields
            self.number, self.field = self.number + 1, (-1, c)
        else:
            self.field = (*self.field, c)

    def push_token(self, c: int, kind: int) -> None:
        number = 2 if self.last_token == 2 else 3
        token = 4 + c % 16 if kind == 6 else {0: 1, 1: 0, 4: number}.get(int(kind), 2)
        if token > 3 or 0 < token != self.last_token:
            self.tokens = [*self.tokens[-5:], token]
        self.last_token = token
        if self.bracket_kinds[c] == OPENING:
            self.brackets = [*self.brackets[-7:], (self.word, c)]
        elif self.brackets and self.bracket_kinds[c] == CLOSING:
            self.brackets.pop()
        elif self.brackets and self.bracket_kinds[c] == SEPARATOR:
            self.brackets[-1] = (*self.brackets[-1], c)

    def contexts(self) -> list[object]:
        """Return the contexts of the next character; none before the first."""
        if not self.read:
            return [None] * CONTEXTS
        past = [0] * KEY_CHARACTERS + self.read
        above = past[-self.above] if self.column < self.above <= KEY_CHARACTERS else 0
        after = past[1 - self.above] if self.column + 1 < self.above < KEY_CHARACTERS else 0
        letters = 0 if self.gap else min(len(self.word), 15)
        place = min(self.number, 15)
        token = (bool(self.gap), self.gap or self.word)
        field_above = self.fields_above[place] if place < len(self.fields_above) else ()
        return [
            *(tuple(past[-n:]) for n in ORDERS),
            (self.word, self.gap),
            (self.word, self.gap, self.before),
            (self.word, self.gap, self.before, self.before_that),
            (above, after, min(self.column, 255)),
            (min(self.column, 255), self.number if self.bracket_kinds[0] else letters, self.last_token),
            (self.number, self.field),
            (field_above, self.field),
            (tuple(self.brackets[-1:]), token),
            (tuple(self.tokens), self.last_token, token),
            (self.read[-1], tuple(self.followers())),
        ]

    def followers(self) -> list[int]:
        """Return what followed the last two characters the last two times."""
        last, found = self.read[-2:], []
        if len(last) < 2 or 0 in last:
            return []
        for end in range(len(self.read) - 1, max(1, len(self.read) - KEY_CHARACTERS + 63), -1):
            if self.read[end - 2 : end] == last:
                found.append(self.read[end])
                if len(found) == 2:
                    break
        return found


class SlowMixture:
    """Predicts one text from its beginning. `logits` is called after each `push`, in turn."""

    def __init__(self, text: str, vocabulary: Vocabulary, learned: Learned) -> None:
        self.text: list[int] = vocabulary.encode(text).tolist()
        self.learned, self.size = learned, len(vocabulary)
        self.adaptation = learned.adaptation.astype(float)
        _, self.kinds, _ = learned.characters.T
        self.reader = Reader(learned.characters)
        known, self.counts = Reader(learned.characters), defaultdict[object, Counter[int]](Counter)
        for c in self.text:
            for k, context in enumerate(known.contexts()):
                if context is not None:
                    self.counts[k, context][c] += 1
            known.push(c)
        self.forget()

    def forget(self) -> None:
        self.match, self.repeat = (0, 0), (0, 0)  # position or distance, and length
        self.past: list[tuple[int, list[object]]] = []  # characters and their contexts
        self.shifts, self.curvatures = np.zeros(INPUTS + SETS), np.zeros(INPUTS + SETS)
        self.last: NDArray[np.float64] | None = None

    def push(self, c: int) -> None:
        if self.adaptation[0] and self.last is not None and c:
            self.adapt(c)
        self.last = None
        if self.kinds[c] == RECORD_END:
            self.forget()
        at, length = self.match
        repeat, repeated = self.repeat
        is_repeated = bool(repeat and c) and self.past[-repeat][0] == c
        self.past.append((c, self.reader.contexts() if self.kinds[c] != RECORD_END else [None] * CONTEXTS))
        self.reader.push(c)
        read = [0] * (MATCH_CHARACTERS - 1) + [c for c, _ in self.past[-HISTORY_CHARACTERS:]]
        if at and self.text[at] == c:
            self.match = at + 1, min(length + 1, MAX_MATCH)
        else:
            ends = range(len(self.text) - 1, MATCH_CHARACTERS - 1, -1)
            same = (
                end for end in ends if self.text[end - MATCH_CHARACTERS : end] == read[-MATCH_CHARACTERS:]
            )
            end = next(same, 0)
            found = common_suffix(self.text[:end], read)
            self.match = (end, found) if found >= MATCH_CHARACTERS else (0, 0)
        if self.match[0] >= len(self.text):
            self.match = 0, 0
        if is_repeated:
            self.repeat = repeat, min(repeated + 1, MAX_MATCH)
            return
        found_ = [(common_suffix(read[:end], read), end) for end in range(MATCH_CHARACTERS, len(read))]
        longest = max(found_, default=(0, 0))
        self.repeat = (
            (len(read) - longest[1], longest[0]) if longest[0] >= HISTORY_MATCH_CHARACTERS else (0, 0)
        )

    # ---- predicting

    def matches(self) -> list[tuple[int, int]]:
        """Return what each match predicts, 0 for nothing, and its bucket."""
        return [
            (self.text[self.match[0]] if self.match[0] else 0, length_bucket(self.match[1])),
            (self.past[-self.repeat[0]][0] if self.repeat[0] else 0, length_bucket(self.repeat[1])),
        ]

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield what each run predicts, 0 for nothing, and its state."""
        for k in RUN_CONTEXTS:
            places = self.now[0][RECENT_CONTEXTS.index(k)]
            counts = {c: n for c, n in self.known[k].items() if c}
            if places:
                times = next((i for i, c in enumerate(places) if c != places[0]), len(places))
                yield places[0], 4 * min(times, 15) + (len(set(places)) > 1)
            elif counts:
                c = min(counts, key=lambda c: (-counts[c], c))
                total = sum(counts.values())
                steps = 16 * counts[c] // total if len(counts) > 1 else min(total, 15)
                yield c, 4 * steps + 2 + (len(counts) > 1)
            else:
                yield 0, 0

    def recent(self) -> list[list[int]]:
        """Return for each context of the history what followed it, the newest first."""
        past, now = self.past[-HISTORY_CHARACTERS + 64 :], self.reader.contexts()
        newest = self.past[-KEY_CHARACTERS + 64 :]
        read = [c for c, _ in past]
        found: list[list[int]] = []
        for n in ORDERS:
            ends = range(len(read) - 1, n - 1, -1)
            last = read[-n:]
            found.append([read[e] for e in ends if 0 not in last and read[e - n : e] == last and read[e]])
        found += [
            [c for c, keys in reversed(newest) if now[k] is not None and keys[k] == now[k] and c]
            for k in RECENT_KEYS
        ]
        return [places[:MAX_RECENT] for places in found]

    @cache  # noqa: B019 -- one of each
    def under(self, child: int) -> frozenset[int]:
        """Return the ids under a child."""
        if child <= 0:
            return frozenset([-child])
        return self.under(int(self.learned.children[child, 0])) | self.under(
            int(self.learned.children[child, 1])
        )

    def logits(self, network: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mix logits (V,) of the network; those of id 0 are not compared."""
        self.network = np.exp(network.astype(float) - network[1:].max())
        self.known = [self.counts.get((k, c), Counter()) for k, c in enumerate(self.reader.contexts())]
        for k in RARE_CONTEXTS:
            if self.known[k].total() == 1:
                self.known[k] = Counter()
        self.now = self.recent(), self.matches()
        self.last = np.zeros(self.size)
        if self.size == 2:
            return self.last
        stack = [(0, 1.0)]
        for node, mass in stack:  # grows
            right = 1 / (1 + np.exp(-self.decide(node)[0] if mass >= 1e-3 else -self.by_network(node)))
            for child, p in zip(self.learned.children[node].tolist(), (1 - right, right), strict=True):
                if child > 0:
                    stack.append((child, mass * p))
                else:
                    self.last[-child] = np.log(mass * p)
        return self.last

    def by_network(self, node: int) -> float:
        left, right = (self.network[[*self.under(c)]].sum() for c in self.learned.children[node].tolist())
        least = 1e-9 * (left + right)
        return float(np.log((right + least) / (left + least)))

    def by_backoff(self, left: frozenset[int], right: frozenset[int], start: int, end: int) -> float:
        """Return what the interpolated estimate of the contexts from `start` on says, from frequencies on."""
        share = {c: self.text.count(c) + 0.5 for c in left | right}
        n0, n1 = (sum(share[c] for c in side) / len(self.text) for side in (left, right))
        for i, k in enumerate(BACKOFF_CONTEXTS[start:end], start):
            counts = Counter({c: n for c, n in self.known[k].items() if c})
            if start >= LEARNED_FROM:
                for share, places in self.learned_shares(i - LEARNED_FROM, k, counts):
                    n0, n1 = (
                        (1 - share) * sum(places[c] for c in side) / places.total() + share * n
                        for side, n in ((left, n0), (right, n1))
                    )
                continue
            rest = BACKOFF_SHARE * max(len(counts), 1)
            if k in RECENT_CONTEXTS:
                recent = Counter(self.now[0][RECENT_CONTEXTS.index(k)])
                counts += Counter({c: RECENT_WEIGHT * n for c, n in recent.items()})
            if total := counts.total():
                n0, n1 = (
                    (sum(counts[c] for c in side) + rest * n) / (total + rest)
                    for side, n in ((left, n0), (right, n1))
                )
        least = 1e-7 * (n0 + n1)
        return float(np.log((n1 + least) / (n0 + least)))

    def learned_shares(self, i: int, k: int, known: Counter[int]) -> Iterator[tuple[float, Counter[int]]]:
        """Yield the more general contexts' share against known text and history, and both counts."""
        total, different = known.total(), len(known)
        if total:
            yield self.learned.backoffs[i, 8 * step(different, 5, 9, 16) + step(total, 6, 16, 64)], known
        recent = Counter(self.now[0][RECENT_CONTEXTS.index(k)] if k in RECENT_CONTEXTS else [])
        if recent:
            kinds = sum(len(recent) > n for n in (1, 2, 4))
            state = 16 * step(recent.total(), 5, 9, 20) + 4 * kinds
            state += 0 if total == 0 else 1 if different == 1 else 2 if total <= 16 else 3
            yield self.learned.backoffs[i, KNOWN_STATES + state], recent

    def decide(self, node: int) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Return the logarithm of the odds of the right subtree, the inputs and the first layer's outputs."""
        left, right = (self.under(c) for c in self.learned.children[node].tolist())
        by_map = []
        for k, counter in enumerate(self.known):
            n0, n1 = (sum(counter[c] for c in side if c) for side in (left, right))
            z, total = np.log((n1 + 0.4) / (n0 + 0.4)), n0 + n1
            ratio = 0 if n1 == 0 else 15 if n0 == 0 else min(max(int(8 + 1.3 * z), 1), 14)
            size = total if total <= 4 else min(int(0.8 + 2.3083 * np.log(total + 1e-3)), 15)
            is_certain = total > 0 and len(set(counter) - {0}) == 1
            state = CERTAIN_STATES + 2 * size + (not n0) if is_certain else 16 * size + ratio
            by_map.append(self.learned.maps[k, state])
        by_recent = []
        for j, places in enumerate(self.now[0]):
            sides = [int(c in right) for c in places if c in left | right]
            n1, n0 = sum(sides), len(sides) - sum(sides)
            state = 2 * (7 * min(n0, 6) + min(n1, 6)) + (sides[0] if sides else 0)
            by_recent.append(self.learned.recent_maps[j, state])
        by_match, agree, best = [], 0, 0
        for m, (c, bucket) in enumerate(self.now[1]):
            side = 2 if c in right else 1 if c in left else 0
            z = self.learned.match_maps[BUCKETS * m + bucket]
            by_match.append([0, -z, z][side])
            agree |= side
            best = max(best, 1 + bucket // 2) if side else best
        for run, (c, state) in enumerate(self.runs()):
            z = self.learned.match_maps[MATCHES * BUCKETS + RUN_STATES * run + state]
            by_match.append(z if c in right else -z if c in left else 0)
        by_backoff = [self.by_backoff(left, right, *part) for part in pairwise(BACKOFF_STARTS)]
        others = [*by_backoff, 0.4, self.by_network(node)]
        inputs = np.zeros(INPUTS)
        inputs[: BY_NETWORK + 1] = [*by_map, *by_recent, *by_match, *others]
        c1, c2 = [0, 0, *self.reader.read][-1], [0, 0, *self.reader.read][-2]
        letters = 0 if self.reader.gap else min(len(self.reader.word), 15)
        column = self.reader.column // (1 if self.reader.bracket_kinds[0] else 8)
        kinds, token = [0, 0, 0, *self.reader.tokens], self.reader.last_token
        two = 32 * kinds[-2] + kinds[-1]
        by_kinds = pair(two + (token << 10) + (min(letters, 3) << 15), node)
        runs = dict(zip(RUN_CONTEXTS, (c for c, _ in self.runs()), strict=True))
        rows = np.array(SET_STARTS) + np.array([
            pair(c1, node), pair(c2, node), by_kinds, pair(1024 * kinds[-3] + two + (token << 15), node),
            pair(runs[BRACKET], node), pair(runs[SHAPE], node), 4 * best + agree,
            8 * letters + self.kinds[c1], 8 * min(self.reader.number, 31) + min(column, 7),
        ])  # fmt: skip
        weights = self.learned.weights[rows] + self.shifts[:INPUTS]
        outputs = np.clip(weights @ inputs, -14, 14)
        last_rows = np.array(LAST_STARTS) + np.array([
            min(node, 255), by_kinds, pair(c1 ^ c2 << 10, node), 4 * best + agree,
            min(int(np.clip(by_backoff[-1], -8, 8) * 1.5 + 12.5), 23),
        ])  # fmt: skip
        last = self.learned.last_weights[last_rows].mean(0) + self.shifts[INPUTS:]
        return float(np.clip(last @ outputs, -14, 14)), inputs, outputs

    def path(self, c: int) -> Iterator[tuple[int, int]]:
        """Yield the nodes above a character, the lowest first, and in which subtree of each it is."""
        for node in range(len(self.learned.children) - 1, -1, -1):
            for side, child in enumerate(self.learned.children[node].tolist()):
                if c in self.under(child):
                    yield node, side

    def adapt(self, c: int) -> None:
        """Move the weights of the last prediction, now that c was read."""
        decisions = [(side, *self.decide(node)) for node, side in self.path(c)]
        for side, z, inputs, outputs in decisions:
            p = 1 / (1 + np.exp(-z))
            for part, x, which in (
                (slice(0, INPUTS), inputs, PRECISION),
                (slice(INPUTS, None), outputs, LAST_PRECISION),
            ):
                own = self.adaptation[which]
                added = self.curvatures[part] + p * (1 - p) * x**2
                self.curvatures[part] = np.minimum(added, self.adaptation[LIMIT] * own)
                step = x / (own + self.curvatures[part])
                self.shifts[part] += (side - p) * step / (1 + (x * step).sum() / 4)
