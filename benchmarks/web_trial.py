"""A web server's log with strange requests hidden in it, and a month of one that changes.

A model of 8,000 generated requests scores 20,000 later ones of the same visitors at a false-alarm rate of
1 %, 40 of which are strange: paths that scanners ask for, methods that no page uses, clients that are tools.
Each seed hides others. `found` are those that are flagged, `false` the other lines that are; `critical` says
how many of the critical alerts have a strange line.

The month has 1,000 requests a day. Browsers become newer, a new page comes each week, and on the 15th a
deployment brings new addresses and a new field. All of it is normal: the alerts of a day are those to read.

    python -m benchmarks.web_trial [--seconds 30] [--seeds 5]
"""

import argparse
import random
import time
from collections.abc import Iterator
from typing import Any

import nextchar
from benchmarks.logs import scorer_of
from benchmarks.report import print_json_line, print_table
from nextchar.models.anomaly.alerts import CRITICAL_P
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer

_TRAINED, _LATER, _STRANGE = 8_000, 20_000, 40
_DAYS, _PER_DAY, _DEPLOYED = 30, 1_000, 14
_WORDS = ("shoes", "hats", "red", "blue", "winter", "kids", "sale", "men", "women", "boots", "bag", "coat")
_PAGES = {"/": 40, "/cart": 8, "/login": 6, "/about": 2, "/api/v1/items": 15, "/search": 10} | {
    f"/static/{name}": 15 for name in ("app.js", "main.css", "logo.png")
}
_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_{} like Mac OS X) AppleWebKit/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{}.0) Gecko/20100101 Firefox/119.0",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
)
_STRANGE_PATHS = (
    *("/wp-login.php", "/.env", "/app.js.bak", "/admin/config.php", "/../../etc/passwd", "/.git/config"),
    *("/index.php?id=1%27%20OR%201=1", "/cgi-bin/test.cgi", "/api/v1/items?sort=id;DROP TABLE items"),
    *("/phpmyadmin/", "/search?q=<script>alert(1)</script>", "/static/app.js.bak"),
)


def main() -> None:
    """Measure and print the results."""
    options = _arguments()
    r = random.Random(7)
    visitors = [f"{r.randint(1, 223)}.{r.randint(0, 255)}.{r.randint(0, 255)}.7" for _ in range(800)]
    text = "".join(f"{line}\n" for line in requests(_TRAINED, random.Random(1), visitors))
    with nextchar.train(text, seconds=options.seconds) as model:
        trials = [hidden(model, seed, visitors) for seed in range(options.seeds)]
        days = month(model, visitors)
    rows = [[str(value) for value in one.values()] for one in trials]
    print_table(list(trials[0]), rows, words=0)
    worst = max(day["alerts"] for day in days)
    total = sum(day["alerts"] for day in days)
    print(f"\nA month: {total} alerts, at most {worst} on one day; each day flagged and alerts:")
    print(", ".join(f"{day['flagged']} {day['alerts']}" for day in days))
    print_json_line("web_trial", seconds=options.seconds, trials=trials, days=days)


def hidden(model: nextchar.Model, seed: int, visitors: list[str]) -> dict[str, Any]:
    """Score later requests, some of which are strange."""
    r = random.Random(seed + 100)
    lines = list(requests(_LATER, r, visitors))
    strange = set(r.sample(range(_LATER), _STRANGE))
    lines = [_made_strange(line, r) if i in strange else line for i, line in enumerate(lines)]
    found = scored(model, scorer_of(model), lines)
    flagged = {i for i, one in enumerate(found) if one["flagged"]}
    alerts: dict[str, set[int]] = {}
    for i, one in enumerate(found):
        if one["alert"]:
            alerts.setdefault(one["alert"], set()).add(i)
    critical = [own for own in alerts.values() if any(found[i]["is_critical"] for i in own)]
    return {
        "seed": seed,
        "found": len(flagged & strange),
        "in an alert": len(strange & {i for own in alerts.values() for i in own}),
        "false": len(flagged - strange),
        "alerts": len(alerts),
        "critical": f"{sum(bool(own & strange) for own in critical)} of {len(critical)}",
    }


def month(model: nextchar.Model, visitors: list[str]) -> list[dict[str, int]]:
    """Score a month that changes, as one stream; return what is flagged on each day, and its new alerts."""
    scorer, seen = scorer_of(model), set[str]()
    days = []
    for day in range(_DAYS):
        found = scored(model, scorer, list(requests(_PER_DAY, random.Random(1_000 + day), visitors, day=day)))
        new = {one["alert"] for one in found if one["alert"]} - seen
        seen |= new
        days.append({"flagged": sum(one["flagged"] for one in found), "alerts": len(new)})
    return days


def scored(model: nextchar.Model, scorer: CalibratedScorer, lines: list[str]) -> list[dict[str, Any]]:
    """Return what becomes of the lines: whether they are flagged, their alerts, whether they are critical."""
    read = scorer.read(list(map(model.loaded.vocabulary.to_characters, lines)))
    judged = [scorer.judge(one, line) for one, line in zip(scorer.scores(read), read, strict=True)]
    return [
        {
            "flagged": bool(one.score.anomalous),
            "alert": one.score.alert_id,
            "is_critical": bool(one.score.anomalous) and one.estimated_p <= CRITICAL_P,
        }
        for one in judged
    ]


def requests(count: int, r: random.Random, visitors: list[str], *, day: int = 0) -> Iterator[str]:
    """Yield requests; those of later days have newer browsers, more pages, and after a deployment a field."""
    pages = (
        _PAGES | {f"/product/{i}": 0.1 for i in range(1, 400)} | {f"/category/{word}": 1 for word in _WORDS}
    )
    pages |= {f"/news/{week}": 3 for week in range((day + 6) // 7)}
    if day >= _DEPLOYED:
        pages |= {"/api/v2/items": 15, "/api/v2/cart": 5}
    names, weights = list(pages), list(pages.values())
    at = 1_700_000_000.0 + 86_400 * day
    for _ in range(count):
        at += r.expovariate(count / 86_400)
        page = r.choices(names, weights)[0]
        method = "POST" if page in {"/cart", "/login"} and r.random() < 0.5 else "GET"
        if page == "/search":
            page += f"?q={r.choice(_WORDS)}+{r.choice(_WORDS)}"
        status = r.choices((200, 304, 404, 301), (88, 8, 2, 2))[0]
        agent = r.choice(_AGENTS).format(r.randint(100, 119) + day // 10)
        referrer = "-" if r.random() < 0.5 else f"https://shop.example.com{r.choice(names)}"
        when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(at))
        size = int(r.lognormvariate(8, 1.2))
        end = ' "v2"' if day >= _DEPLOYED and "/v2/" in page else ""
        head = f'{r.choice(visitors)} - - [{when}] "{method} {page} HTTP/1.1"'
        yield f'{head} {status} {size} "{referrer}" "{agent}"{end}'


def _made_strange(line: str, r: random.Random) -> str:
    head, request, rest = line.split('"', 2)
    _, page, protocol = request.split(" ")
    kind = r.randrange(3)
    method = r.choice(("DELETE", "TRACE", "PROPFIND")) if kind == 2 else "GET"
    page = page if kind == 2 else r.choice(_STRANGE_PATHS)
    if r.random() < 0.3:
        rest = f'{rest.rsplit(chr(34), 2)[0]}"{r.choice(("sqlmap/1.7", "curl/8.1", "Nikto/2.5"))}"'
    return f'{head}"{method} {page} {protocol}"{rest}'


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-web", description="Strange requests, and a month.")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training")
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
