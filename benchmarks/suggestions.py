"""Suggestions: is the intended item of a list among those shown, and how long does that take?

For each list a model is trained, with the default recipe, by a job in this process. Items are typed character
by character:

    ours            `Model.suggest`, which chooses among the lines of the list
    prefix index    the lines that begin with what is typed, those of largest count first; it ignores case
    ghost text      the model's likeliest continuation, shown and accepted as in `suggestion_replay.py`

A tenth of the distinct items is kept from the model: the *new* ones. The others are drawn by their counts
where a list has them, as people look for them, else evenly. "wrong" has one typing error in what is typed: a
character that is wrong, left out, one too many, or exchanged with its neighbor, at a random place. An item
counts as shown once it is among six suggestions. "Keys saved" is the share of the keys of 200 items if each
is accepted with one key as soon as it is among five, or is the first; of 200 new ones, if generated texts are
suggested as well (`prefer`). The index has none of these.

With --queries, a tenth of the lines is kept from the model; each is typed up to a random place, and counts as
found if it is among ten suggestions (Success@10; MRR@10 is the mean of 1 / its place). "most popular" are the
lines of the other nine tenths that begin with it, by count; "last words" continues what these words begin
with elsewhere (Mitra and Craswell 2015).

With --lines, an index of that many distinct lines is built and searched.

With --http, ten suggestions for the first 12 characters of such lines are asked for over HTTP, of a network
of that size with random weights and a mixture: by one client, and by 64 at once. These are wall-clock times,
and the processor time of the API per request.

Other seconds are processor time, so that they depend less on what else runs. Prints tables and one JSON line.

    python -m benchmarks.suggestions [LIST ...] [--queries LIST ...] [--lines 1000000] [--seconds 60]
    python -m benchmarks.suggestions --http 2x256 [--lines 200000] [--requests 500]
"""

import argparse
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.concurrent_clients import run_clients
from benchmarks.networks import CHARACTERS, random_weights, saved_model
from benchmarks.report import print_json_line, print_table
from benchmarks.server import running_api
from benchmarks.serving import percentiles
from benchmarks.suggestion_replay import LONGEST, Continuation, replay
from nextchar.local import Model
from nextchar.local_training import train
from nextchar.models.runtime import mixture
from nextchar.models.runtime.line_index import LineIndex, default_typos
from nextchar.models.runtime.mixture_learning import learn_text
from nextchar.models.runtime.suggestions import WEIGHED
from nextchar.models.text import line_file
from nextchar.models.text.line_columns import LineColumns
from nextchar.models.text.line_file import Lines, fold
from nextchar.models.text.vocabulary import Vocabulary

LENGTHS = (1, 2, 3, 4, 6, 8)
SHOWN = 6
LISTED = 5
TEN = 10
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MIN_WRONG = 4  # characters: shorter prefixes may have no typing error
_ITEMS = 2_000
_TYPED_ITEMS = 200
_SEED = 1
_CLIENTS = 64
_HTTP_PREFIX = 12  # characters
_HTTP_LINES = 200_000  # of 10,000 beginnings: few answers are kept from an earlier request
_MIXED_LINES = 20_000

Suggest = Callable[[str, int], Sequence[str]]
"""Returns at most this many suggestions for what is typed."""


class PrefixIndex:
    """The peer: lines that begin with a prefix, but for case, those of largest count first."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._lines = sorted((line.casefold(), -count, line) for line, count in counts.items())

    def suggest(self, prefix: str, limit: int) -> list[str]:
        """Return the lines of largest count."""
        from bisect import bisect_left

        wanted = prefix.casefold()
        lo = bisect_left(self._lines, (wanted,))
        hi = bisect_left(self._lines, (wanted + chr(0x10FFFF),))
        return [line for _, _, line in sorted(self._lines[lo:hi], key=lambda one: one[1:])[:limit]]


class GhostText:
    """The peer that shows one continuation: the likeliest character each time."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def complete(self, prompt: str) -> Continuation:
        """Return the rest of the line, up to LONGEST characters."""
        text, logprobs = "", []
        while len(text) < LONGEST and not text.endswith("\n"):
            ((character, probability),) = self._model.next(prompt + text, top=1)
            text += character
            logprobs.append(math.log(probability))
        return Continuation(text, logprobs)

    def keys_saved(self, items: Sequence[str]) -> float:
        """Return the share of keys that is saved by whole suggestions and first words."""
        keys = sum(replay(self, item, context="").keys for item in items)
        return 1 - keys / sum(map(len, items))


class LastWords:
    """A peer for queries: continuations of their last words in other queries, the most frequent first."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._popular = PrefixIndex(counts)
        ends: Counter[str] = Counter()
        for line, count in counts.items():
            words = line.split(" ")
            for i in range(len(words)):
                ends[" ".join(words[i:])] += count
        self._ends = PrefixIndex(dict(ends))

    def suggest(self, prefix: str, limit: int) -> list[str]:
        """Return whole queries first, then such in which only the last words are known."""
        found = dict.fromkeys(self._popular.suggest(prefix, limit))
        words = prefix.split(" ")
        for i in range(max(1, len(words) - 3), len(words)):
            before, begun = " ".join(words[:i]), " ".join(words[i:])
            found |= dict.fromkeys(f"{before} {end}" for end in self._ends.suggest(begun, limit))
        return list(found)[:limit]


def with_error(text: str, rng: random.Random) -> str:
    """Return a text with one typing error."""
    at = rng.randrange(len(text))
    kinds = ["wrong", "left out", "one too many"] + ["exchanged"] * (at + 1 < len(text))
    match rng.choice(kinds):
        case "wrong":
            other = rng.choice([c for c in _LETTERS if c != text[at].lower()])
            return text[:at] + other + text[at + 1 :]
        case "left out":
            return text[:at] + text[at + 1 :]
        case "one too many":
            return text[:at] + rng.choice(_LETTERS) + text[at:]
        case _:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def shares_shown(suggest: Suggest, items: Sequence[str], *, has_error: bool) -> dict[int, float | None]:
    """Return by typed characters the share of items that are among those shown."""
    rng = random.Random(_SEED)
    shares: dict[int, float | None] = {}
    for length in LENGTHS:
        typed = [(item, item[:length]) for item in items if len(item) >= length]
        if has_error:
            # As many characters are typed, one of which is an error.
            typed = [(item, (with_error(text, rng) + item[length:])[:length]) for item, text in typed]
        if not typed or (has_error and length < _MIN_WRONG):
            shares[length] = None
            continue
        hits = sum(fold(item) in map(fold, suggest(text, SHOWN)) for item, text in typed)
        shares[length] = hits / len(typed)
    return shares


def keys_saved(suggest: Suggest, items: Sequence[str], shown: int) -> float:
    """Return the share of keys that is saved by accepting each item, with one key, once it is shown."""
    keys = 0
    for item in items:
        wanted = fold(item)
        typed = (n for n in range(len(item) - 1) if wanted in map(fold, suggest(item[:n], shown)))
        keys += next(typed, len(item) - 1) + 1
    return 1 - keys / sum(map(len, items))


def success(suggest: Suggest, typed: Iterable[tuple[str, str]]) -> tuple[float, float]:
    """Return Success@10 and MRR@10 of pairs of a query and what of it is typed."""
    places = []
    for query, text in typed:
        found = [fold(one) for one in suggest(text, TEN)]
        places.append(found.index(fold(query)) + 1 if fold(query) in found else 0)
    return sum(map(bool, places)) / len(places), sum(1 / p for p in places if p) / len(places)


def read_counts(path: Path) -> dict[str, int]:
    """Return the lines of a list with their counts."""
    counts: defaultdict[str, int] = defaultdict(int)
    for record in LineColumns(None).records([path.read_text(encoding="utf-8", errors="replace")]):
        counts[record.text] += record.count
    return dict(counts)


def suggest_of(model: Model, **options: Any) -> Suggest:
    """Return the suggestions of a model as texts."""
    return lambda prefix, limit: [one.text for one in model.suggest(prefix, limit=limit, **options)]


def milliseconds(suggest: Suggest, prefixes: Sequence[str], limit: int) -> list[float]:
    """Return the sorted processor times of suggestions."""
    times = []
    for prefix in prefixes:
        began = time.process_time()
        suggest(prefix, limit)
        times.append(1e3 * (time.process_time() - began))
    return sorted(times)


def judge_list(path: Path, *, seconds: float) -> dict[str, Any]:
    """Train on a list and compare with a prefix index."""
    counts = read_counts(path)
    rng = random.Random(_SEED)
    new = rng.sample(list(counts), len(counts) // 10)
    for item in new:
        del counts[item]
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    text = "".join(f"{one}\n" for one in lines if one in counts or one.rpartition("\t")[0].strip() in counts)
    items = rng.choices(list(counts), [max(1, n) for n in counts.values()], k=_ITEMS)
    with train(text, seconds=seconds, kind="records", progress=False) as model:
        ours, peer = suggest_of(model), PrefixIndex(counts)
        repeated, repeated_peer = cache(ours), cache(peer.suggest)  # short prefixes are typed often
        rows: dict[str, Any] = {}
        for name, has_error in (("", False), (", wrong", True)):
            rows[f"ours{name}"] = shares_shown(repeated, items, has_error=has_error)
            rows[f"prefix index{name}"] = shares_shown(repeated_peer, items, has_error=has_error)
        saved = {
            name: keys_saved(suggest, items[:_TYPED_ITEMS], listed)
            for name, suggest, listed in (
                (f"ours, list of {LISTED}", repeated, LISTED),
                ("ours, one", repeated, 1),
                (f"prefix index, list of {LISTED}", repeated_peer, LISTED),
            )
        }
        generating, typed_new = cache(suggest_of(model, constrain="prefer")), new[:_TYPED_ITEMS]
        ghost = GhostText(model)
        saved |= {
            "ghost text": ghost.keys_saved(items[:_TYPED_ITEMS]),
            f"new: ours, list of {LISTED}": keys_saved(generating, typed_new, LISTED),
            "new: ghost text": ghost.keys_saved(typed_new),
        }
        shown = [ours(item[:n], SHOWN) for item in items[:100] for n in LENGTHS]
        exist = all(text in counts for texts in shown for text in texts)
        times = milliseconds(ours, [item[:12] for item in items[:200]], TEN)
    heads = [path.stem, *map(str, LENGTHS)]
    cells = [[name, *("" if s is None else f"{s:.1%}" for s in row.values())] for name, row in rows.items()]
    print_table(heads, cells)
    middle = times[len(times) // 2]
    print(
        f"every line shown exists: {exist}; 12 characters, ten suggestions: {middle:.2f} ms of processor time"
    )
    print("keys saved: " + ", ".join(f"{name} {share:.1%}" for name, share in saved.items()))
    return {"shown": rows, "keys_saved": saved, "every_line_exists": exist, "p50_cpu_ms": middle}


def judge_queries(path: Path, *, seconds: float) -> dict[str, Any]:
    """Train on nine tenths of some queries, and complete the others."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    queries = [" ".join(line.casefold().split()) for line in lines if line.strip()]
    rng = random.Random(_SEED)
    rng.shuffle(queries)
    cut = len(queries) // 10
    held_out, kept = queries[:cut], Counter(queries[cut:])
    typed = [(query, query[: rng.randint(1, len(query) - 1)]) for query in held_out if len(query) > 1]
    wrong = [(q, with_error(text, rng)) for q, text in typed if len(text) >= _MIN_WRONG]
    longer = [(q, text) for q, text in typed if len(text) >= _MIN_WRONG]
    text = "".join(f"{query}\n" for query in queries[cut:])
    starts = PrefixIndex(dict(kept))
    unseen = [(q, text) for q, text in typed if not starts.suggest(text, 1)]
    results: dict[str, Any] = {"unseen": len(unseen) / len(typed)}
    with train(text, seconds=seconds, kind="records", progress=False) as model:
        suggests: dict[str, Suggest] = {
            "ours, none": suggest_of(model, constrain="none"),
            "ours, prefer": suggest_of(model, constrain="prefer"),
            "ours, lines": suggest_of(model),
            "most popular": starts.suggest,
            "last words": LastWords(dict(kept)).suggest,
        }
        for name, suggest in suggests.items():
            found = {
                "all": success(suggest, typed),
                "unseen": success(suggest, unseen) if unseen else (0.0, 0.0),
                "4 or more": success(suggest, longer),
                "4 or more, wrong": success(suggest, wrong),
            }
            results[name] = found
    heads = [f"{path.stem}: Success@10, MRR@10", "all", "unseen", "4 or more", "4 or more, wrong"]
    print_table(heads, [
        [name, *(f"{s:.3f} {m:.3f}" for s, m in results[name].values())] for name in suggests
    ])  # fmt: skip
    print(f"{len(held_out)} queries, prefixes that none of the others has: {results['unseen']:.0%}")
    return results


def generated_lines(count: int, rng: random.Random, *, beginnings: int = 30_000) -> dict[str, int]:
    """Return distinct lines with counts, each three words of a list; the first two are of its beginning."""
    weights = [1 / (1 + i) for i in range(len(_LETTERS))]  # as letters of a language, some are frequent
    words = ["".join(rng.choices(_LETTERS, weights, k=rng.randint(4, 8))) for _ in range(30_000)]
    lines: dict[str, int] = {}
    while len(lines) < count:
        lines[" ".join([*rng.choices(words[:beginnings], k=2), rng.choice(words)])] = rng.randint(1, 9)
    return lines


def judge_http(network: str, *, lines: int, requests: int) -> dict[str, Any]:
    """Ask an API for ten suggestions, by one client and by many."""
    rng = random.Random(_SEED)
    # So that a prefix of that length is that of ten lines and more.
    counts = generated_lines(lines, rng, beginnings=max(2, int((lines / 20) ** 0.5)))
    layers, units = map(int, network.split("x"))
    index = Lines.make(counts)
    assert index
    vocabulary = Vocabulary(CHARACTERS)
    ids = vocabulary.encode("".join(f"{line}\n" for line in islice(counts, _MIXED_LINES)))
    files = {
        line_file.FILE: index.with_weight(0.5).dump(),
        mixture.FILE: mixture.dump(ids, learn_text(ids, vocabulary)[0]),
    }
    saved = saved_model(layers, units, random_weights(layers, units), files)
    texts = list(counts)
    path = f"/v1/models/{saved.card.name}/suggest"
    figures: dict[str, Any] = {}
    with running_api([saved], model_threads=1) as api:
        with api.client() as client:
            asked = [{"prefix": text[:_HTTP_PREFIX], "limit": TEN} for text in texts[:50]]
            shown = sum(len(client.post(path, body)["suggestions"]) for body in asked) / len(asked)
        print(f"{shown:.1f} suggestions per response")
        for clients in (1, _CLIENTS):
            used_s = api.processor_s()
            took_s, times, errors = run_clients(
                api.port,
                path,
                clients,
                each=-(-requests // clients),
                next_body=lambda: {"prefix": rng.choice(texts)[:_HTTP_PREFIX], "limit": TEN},
            )
            each_ms = 1e3 * (api.processor_s() - used_s) / (len(times) + clients)
            figures[f"{clients}"] = percentiles(times) | {
                "per_second": round(len(times) / took_s, 1),
                "processor_ms": round(each_ms, 2),
                "errors": errors,
            }
    heads = [
        f"{network}, {lines:,} lines, {_HTTP_PREFIX} characters",
        "p50",
        "p99",
        "per second",
        "processor ms each",
        "errors",
    ]
    rows = [
        [
            f"{clients} clients",
            f"{f['p50_ms']:.1f} ms",
            f"{f['p99_ms']:.1f} ms",
            *map(str, list(f.values())[2:]),
        ]
        for clients, f in figures.items()
    ]
    print_table(heads, rows)
    return figures


def judge_size(count: int) -> dict[str, Any]:
    """Build and search an index of many distinct lines."""
    rng = random.Random(_SEED)
    lines = generated_lines(count, rng)
    began = time.process_time()
    made = Lines.make(lines)
    assert made
    data = made.dump()
    build_s = time.process_time() - began
    began = time.process_time()
    index = LineIndex(Lines.load(data))
    load_s = time.process_time() - began
    texts = rng.sample(list(lines), 300)

    def search(prefix: str, limit: int) -> list[str]:
        found = index.search(prefix, typos=default_typos(prefix), wanted=limit, most=WEIGHED)
        return [candidate.text for candidate in found.candidates]

    search(texts[0][:3], TEN)
    exact = milliseconds(search, [text[: rng.randint(1, 12)] for text in texts], TEN)
    wrong = milliseconds(search, [with_error(text[: rng.randint(4, 12)], rng) for text in texts], TEN)
    figures = {
        "lines": count, "characters": sum(map(len, lines)) / count, "bytes": len(data),
        "build_cpu_s": build_s, "load_cpu_s": load_s, "p50_cpu_ms": exact[150], "p99_cpu_ms": exact[297],
        "wrong_p50_cpu_ms": wrong[150], "wrong_p99_cpu_ms": wrong[297],
    }  # fmt: skip
    print_table(["lines", "bytes", "build", "load", "p50", "p99", "wrong p50", "wrong p99"], [[
        f"{count:,}", f"{len(data):,}", f"{build_s:.1f} s", f"{load_s:.2f} s",
        *(f"{ms:.2f} ms" for ms in (exact[150], exact[297], wrong[150], wrong[297])),
    ]])  # fmt: skip
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, type and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "lists", nargs="*", type=Path, help="UTF-8 files, an item per line, with its count or not"
    )
    parser.add_argument("--queries", nargs="*", type=Path, default=[], help="UTF-8 files, a query per line")
    parser.add_argument("--lines", type=int, default=0, help="distinct lines of an index that is built")
    parser.add_argument("--seconds", type=float, default=60.0, help="training seconds per list")
    parser.add_argument("--http", metavar="NETWORK", help="measure over HTTP, such as 2x256")
    parser.add_argument("--requests", type=int, default=500, help="over HTTP, by one client and by all")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    print(f"load average {load:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    results = {
        "lists": {path.stem: judge_list(path, seconds=options.seconds) for path in options.lists},
        "queries": {path.stem: judge_queries(path, seconds=options.seconds) for path in options.queries},
        "size": judge_size(options.lines) if options.lines and not options.http else None,
        "http": options.http
        and judge_http(options.http, lines=options.lines or _HTTP_LINES, requests=options.requests),
    }
    print_json_line("suggestions", seconds=options.seconds, load_average=load, **results)


if __name__ == "__main__":
    main()
