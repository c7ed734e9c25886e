"""Trains the base models that the package has: small networks that know a kind of text beforehand.

    python -m benchmarks.base_models FOLDER [NAME ...]

FOLDER has clones of the repositories in models/base/sources.toml, each as <owner>/<name>. What is missing is
printed as `git clone` commands. The same commits and the same numerics give the same weights.
"""

import argparse
import html
import random
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nextchar.models.base import BASES_FOLDER, BaseModel, dump_base
from nextchar.models.config import PRESETS, Budget
from nextchar.models.text.log_detection import CLASSES
from nextchar.models.text.masks import Masks
from nextchar.models.text.vocabulary import normalize
from nextchar.worker.hooks import Hooks
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import fit

SOURCES = tomllib.loads((BASES_FOLDER / "sources.toml").read_text())
JUDGED_EVERY = 5
"""Of a repository's files, in order of their names, every fifth is not trained on."""

_WIDTH = 72  # of wrapped lines
_COVERAGE = 0.9999  # of the text, by the characters that the model knows
_MASKED_EVERY = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the base models that are named, or all."""
    parser = argparse.ArgumentParser(description="Train the base models of the package.")
    parser.add_argument("folder", type=Path, help="the folder of clones, as <owner>/<name>")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)}; default: all")
    options = parser.parse_args(arguments)
    names = options.names or list(SOURCES)
    if unknown := set(names) - set(SOURCES):
        parser.error(f"there is no base model {min(unknown)}; there are {', '.join(SOURCES)}")
    repositories = {text["repository"] for name in names for text in SOURCES[name]["texts"]}
    if missing := sorted(one for one in repositories if not (options.folder / one).exists()):
        clones = "\n".join(f"git clone https://github.com/{one} {options.folder / one}" for one in missing)
        parser.error(f"these repositories are missing:\n{clones}")
    for name in names:
        base = train_base(name, options.folder)
        path = BASES_FOLDER / f"{name}.npz"
        path.write_bytes(dump_base(base))
        print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


def train_base(name: str, folder: Path) -> BaseModel:
    """Return a base model, trained on its texts in a folder of clones."""
    steps = SOURCES[name]["steps"]
    text = Text.split(training_text(name, folder), validation_fraction=0.01, coverage=_COVERAGE)
    network, training = PRESETS["small"]
    training = training.model_copy(update={"budget": Budget(steps=steps), "early_stopping": False})

    def show(progress: dict[str, Any]) -> None:
        bits = progress.get("validation_bits_per_character")
        print(f"{name}: step {progress.get('step')} of {steps}, {bits} bits per character", flush=True)

    hooks = Hooks(
        progress=show,
        event=lambda *_: None,
        checkpoint=lambda _: None,
        stop=lambda: None,
        checkpoint_every_s=float("inf"),
    )
    result = fit(network, training, text, hooks=hooks)
    return BaseModel(name, text.vocabulary.characters, network, dict(result.network.weights()))


def training_text(name: str, folder: Path) -> str:
    """Return the text that a base model is trained on."""
    parts = [part for text in SOURCES[name]["texts"] for part in _parts(name, text, folder)]
    random.Random(1).shuffle(parts)
    return normalize("\n".join(parts))


def _parts(name: str, text: dict[str, Any], folder: Path) -> Iterator[str]:
    """Yield the parts of a repository's files that are trained on."""
    repository = folder / text["repository"]
    paths = _git(repository, "ls-tree", "-r", "-z", "--name-only", text["commit"]).split("\0")
    paths = sorted(path for path in paths if any(fnmatch(path, glob) for glob in text["files"]))
    left = text["max_characters"]
    paths = [path for number, path in enumerate(paths, 1) if number % JUDGED_EVERY]
    random.Random(1).shuffle(paths)
    for number, path in enumerate(paths):
        if left <= 0:
            break
        content = plain_text(_git(repository, "show", f"{text['commit']}:{path}"), number=number)
        part = _middle(content, min(left, text["max_characters_per_file"]))
        if name == "logs" and number % _MASKED_EVERY:
            part = Masks(CLASSES).apply(part).text
        left -= len(part)
        yield part


def plain_text(content: str, *, number: int) -> str:
    """Return the text of a file. The paragraphs of XML are laid out in one of three ways, by its number."""
    content = content.replace("\r\n", "\n")
    if "<TEI" not in content[:2000]:
        return content
    body = content[content.index("<body") :]
    paragraphs = [
        " ".join(html.unescape(re.sub("<[^>]*>", "", one)).split())
        for one in re.findall(r"<(?:p|l|head)\b[^>]*>(.*?)</(?:p|l|head)>", body, re.DOTALL)
    ]
    if number % 3 == 0:
        paragraphs = [textwrap.fill(one, _WIDTH, break_long_words=False) for one in paragraphs]
    return ("\n" if number % 3 == 1 else "\n\n").join(filter(None, paragraphs))


def _middle(text: str, characters: int) -> str:
    """Return about so many characters from the middle of a text, from the beginning of a line on."""
    if len(text) <= characters:
        return text
    start = text.find("\n", (len(text) - characters) // 2) + 1
    return text[start : start + characters]


def _git(repository: Path, *arguments: str) -> str:
    """Return what a git command prints."""
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode("utf-8-sig", "replace")


if __name__ == "__main__":
    main()
