"""The report as one HTML page: no scripts, nothing from elsewhere, legible by day and by night.

Corpora and models write anything, so every text is escaped, and characters that would command the reader's
machine become pictures of themselves.
"""

import base64
import html
import time
from collections.abc import Iterable, Mapping
from typing import Any

_PICTURES = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), 0xFFFD)

BASELINE_MEANINGS = {
    "uniform": "guesses blindly among the characters it knows",
    "unigram": "knows how often each character comes",
    "bigram": "knows what comes after each character",
    "ngram": "knows what comes after the last {context} characters",
    "gzip": "repeats what it finds in the 32 kB before",
    "xz": "repeats what it finds anywhere before",
}


def page(report: Mapping[str, Any], *, wide: str | None, narrow: str | None) -> str:
    """Return the page of what `worker.report` tells; parts that are missing are left out.

    Args:
        report: report.json.
        wide: the picture of the curves, as SVG.
        narrow: the same for a telephone.
    """
    network = report["network"]
    trained = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report["created_at"]))
    origin = (
        f"{network['architecture']}, {network['layers']} × {network['units']} units,"
        f" {report['parameters']:,} weights. Trained {trained} on {report['corpus']} by {report['job']}."
    )
    parts = [
        f"<h1>{shown(report['name'])}</h1>",
        f'<p class="muted">{shown(origin)}</p>',
        _problems(report),
        _headline(report),
        _curves(report, wide, narrow),
        _baselines(report),
        _copying(report),
        _samples(report),
        _cost(report),
    ]
    return _PAGE.format(title=shown(report["name"]), style=_STYLE, body="\n".join(parts))


def shown(text: object) -> str:
    r"""Return untrusted text for HTML.

    >>> shown("<b>\x1b")
    '&lt;b&gt;␛'
    """
    return html.escape(str(text).translate(_PICTURES))


def _problems(report: Mapping[str, Any]) -> str:
    said = "".join(f"<li>{shown(sentence)}</li>" for sentence in report.get("problems", ()))
    return f'<ul class="problems">{said}</ul>' if said else ""


def _headline(report: Mapping[str, Any]) -> str:
    bits = report["validation_bits_per_character"]
    figures = [(f"{bits:.2f}", "bits per character, held out")]
    if known := report.get("baselines"):
        name, best = min(known.items(), key=lambda item: item[1])
        less = f"{abs(best - bits):.2f} {'fewer' if bits <= best else 'more'}"
        figures.append((less, f"than the best baseline, {_baseline_name(name, report)} with {best:.2f}"))
    if memory := report.get("memorization"):
        share = memory["generated"][0]["copied"]
        said = f"of what it writes is copied; of held-out text {memory['held_out']['copied']:.1%}"
        figures.append((f"{share:.1%}", said))
    figures.append((_duration(report["training_seconds"]), "of training"))
    items = "".join(f"<div><dd>{shown(v)}</dd><dt>{shown(k)}</dt></div>" for v, k in figures)
    return f'<dl class="figures">{items}</dl>'


def _curves(report: Mapping[str, Any], wide: str | None, narrow: str | None) -> str:
    if not wide or not narrow:
        return ""
    from worker.plots import describe

    words = shown(describe(report["curve"], report.get("baselines", {})))
    said = [f"The dot marks step {report['best_step']:,}, the best on held-out text: its weights are kept."]
    if report["bits_lost_after_best"] > 0.005:
        said.append(f"By the end it cost {report['bits_lost_after_best']:.2f} bits more.")
    if (turned := report.get("validation_turned_at_step")) is not None:
        said.append(f"After step {turned:,} it learned the training text by heart: held-out text cost more.")
    return (
        "<h2>How it learned</h2><picture>"
        f'<source media="(max-width: 560px)" srcset="{_data(narrow)}">'
        f'<img alt="{words}" src="{_data(wide)}" width="720" height="400"></picture>'
        f'<p class="muted">{shown(" ".join(said))}</p>'
    )


def _baselines(report: Mapping[str, Any]) -> str:
    if not report.get("baselines"):
        return ""
    bits = report["validation_bits_per_character"]
    rows = [("this model", bits, "", True)]
    for name, cost in report["baselines"].items():
        meaning = BASELINE_MEANINGS.get(name, "").format(context=report.get("ngram_order", 1) - 1)
        rows.append((_baseline_name(name, report), cost, meaning, False))
    longest = max(cost for _, cost, _, _ in rows)
    body = "".join(
        f'<tr{" class=ours" if ours else ""}><th scope="row">{shown(name)}</th>'
        f'<td class="number">{cost:.2f}</td>'
        f'<td class="wide"><span class="bar" style="width:{cost / longest:.1%}"></span>'
        f'<span class="muted">{shown(meaning)}</span></td></tr>'
        for name, cost, meaning, ours in sorted(rows, key=lambda row: row[1])
    )
    read = report["baseline_characters"]
    return (
        "<h2>Beside simple predictors</h2>"
        "<table><thead><tr><th>predictor</th><th>bits</th><td></td></tr></thead>"
        f"<tbody>{body}</tbody></table>"
        f'<p class="muted">Bits per character of the same {read["judged"]:,} characters of held-out text,'
        f" after the training text. Counts are of its last {read['ngram']:,} characters, with Witten-Bell"
        f" smoothing, the best of {len(report['ngram_orders'])} orders; gzip and xz have read the last"
        f" {read['compressed']:,}.</p>"
    )


def _copying(report: Mapping[str, Any]) -> str:
    memory = report.get("memorization")
    if not memory:
        return ""
    held_out, texts = memory["held_out"], memory["generated"]
    heads = "".join(f"<th>{text['temperature']:g}</th>" for text in texts)
    lines = [
        (
            f"new {n}-grams",
            [f"{t['novel'][n]:.0%}" if n in t["novel"] else "–" for t in (*texts, held_out)],
        )
        for n in held_out["novel"]
    ]
    lines += [
        ("longest copy", [f"{t['longest']:,}" for t in (*texts, held_out)]),
        ("copied", [f"{t['copied']:.1%}" for t in (*texts, held_out)]),
    ]
    body = "".join(
        f'<tr><th scope="row">{shown(name)}</th>'
        + "".join(f'<td class="number">{cell}</td>' for cell in cells)
        + "</tr>"
        for name, cells in lines
    )
    repeated = memory["repeated"]
    verdict = {
        "novel": "It writes text of its own.",
        "repetitive": "Much of what it writes stands in the training text, and so does held-out text:"
        " texts of this kind repeat themselves.",
        "copies": "It copies its training text, more than held-out text happens to repeat it.",
    }[memory["verdict"]]
    searched = ""
    if memory["searched_characters"] < memory["training_characters"]:
        searched = f" Copies were looked for in the first {memory['searched_characters']:,} of them."
    passages = [p for text in texts for p in text["passages"]]
    longest = sorted(passages, key=lambda p: -p["length"])
    return (
        f"<h2>What it copies</h2><p>{verdict}</p>"
        f"<table><thead><tr><th>at temperature</th>{heads}<th>held out</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
        f'<p class="muted">{texts[0]["characters"]:,} characters written at each temperature, and as much'
        " held-out text, which shows what is usual, against the training text."
        f" A passage of {memory['copied_from_characters']} characters or more counts as copied."
        f" Led in by {repeated['lead']} characters of the training text it repeats the next"
        f" {repeated['continuation']} exactly in {repeated['training']:.0%} of the places tried;"
        f" of held-out text in {repeated['held_out']:.0%}.{searched}</p>"
        "<h3>Longest passages that stand in the training text</h3>"
        + "".join(
            f"{_text(p['text'])}<p class='muted'>{p['length']} characters, from character {p['offset']:,}</p>"
            for p in _distinct(longest)[:3]
        )
    )


def _samples(report: Mapping[str, Any]) -> str:
    samples = report.get("samples")
    if not samples:
        return ""
    chosen = samples if len(samples) <= 6 else [samples[i * (len(samples) - 1) // 5] for i in range(6)]
    told = "".join(
        f"<h3>Epoch {sample['epoch']:.3g}, step {sample['step']:,}</h3>{_text(sample['text'])}"
        for sample in chosen
    )
    more = f" {len(chosen)} of {len(samples)} are shown." if len(chosen) < len(samples) else ""
    return (
        f'<h2>What it wrote while it learned</h2><p class="muted">After the end of the training text, at'
        f" temperature 1.{more}</p>{told}"
    )


def _cost(report: Mapping[str, Any]) -> str:
    cost, int8 = report["cost"], report.get("int8")
    lines = [
        ("training", _duration(report["training_seconds"])),
        ("characters read", f"{report['characters_trained']:,}, {report['epochs']:.3g} epochs"),
        ("speed", f"{cost['characters_per_second']:,} characters a second"),
        ("cores", str(cost["cores"])),
        ("most memory", f"{report['peak_memory_bytes'] / 1e6:,.0f} MB"),
        ("text", "{train:,} characters, {validation:,} held out".format(**report["characters"])),
        ("rows × window", f"{report['rows']} × {report['window']}"),
        ("dropout", f"{report.get('dropout', 0):.0%}"),
        ("this report", _duration(report["report_seconds"])),
    ]
    if int8:
        kept = "kept" if int8["kept"] else "not kept"
        lines.append(("int8 weights", f"{int8['lost_nats']:+.4f} nats a character on held-out text, {kept}"))
    body = "".join(f'<tr><th scope="row">{shown(k)}</th><td>{shown(v)}</td></tr>' for k, v in lines)
    return f"<h2>What it cost</h2><table><tbody>{body}</tbody></table>"


def _baseline_name(name: str, report: Mapping[str, Any]) -> str:
    return f"{report['ngram_order']}-gram" if name == "ngram" else name


def _distinct(passages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for one in passages:
        if not any(one["text"] in other["text"] for other in found):
            found.append(one)
    return found


def _text(text: str) -> str:
    # HTML drops a newline right after <pre>.
    return f'<pre dir="auto" tabindex="0">\n{shown(text)}</pre>'


def _data(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _duration(seconds: float) -> str:
    """Return a duration in words.

    >>> _duration(8.44), _duration(600), _duration(9000)
    ('8.44 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --line: #d1d9e0; --accent: #0969da;
  --soft: #f6f8fa; --bad: #b42318 }
@media (prefers-color-scheme: dark) { :root { --ink: #f0f6fc; --muted: #9198a1; --line: #3d444d;
  --accent: #4493f8; --soft: #151b23; --bad: #ff7b72 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 46rem; padding: 2rem 1rem 4rem; color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
@media (prefers-color-scheme: dark) { html { background: #0d1117 } }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .5rem }
h3 { font-size: .875rem; font-weight: 600; margin: 1.5rem 0 .25rem }
p { margin: .5rem 0 }
.muted { color: var(--muted); font-size: .875rem; overflow-wrap: anywhere }
.problems { color: var(--bad); padding-left: 1.25rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.5rem 0 0 }
.figures div { border-top: 2px solid var(--line); padding-top: .5rem; display: flex; flex-direction: column }
.figures dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums }
.figures dt { color: var(--muted); font-size: .875rem }
img { display: block; max-width: 100%; height: auto; margin: 0 auto }
table { border-collapse: collapse; width: 100%; font-size: .875rem; margin: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .375rem .75rem .375rem 0;
  border-bottom: 1px solid var(--line); font-weight: 400 }
thead th { color: var(--muted) }
td.number, thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums }
td.number, th { white-space: nowrap }
td.wide { width: 60% }
.ours th, .ours td { font-weight: 600 }
.bar { display: block; height: .5rem; margin: .4rem 0 .2rem; border-radius: 2px; background: var(--line) }
.ours .bar { background: var(--accent) }
pre { margin: .25rem 0; padding: .75rem; border-radius: 6px; background: var(--soft); font: .875rem/1.5
  ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: training report</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
