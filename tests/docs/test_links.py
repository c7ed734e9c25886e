"""Links between the pages lead somewhere, and files that a page names exist."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
_FILE = re.compile(
    r"`((?:app|benchmarks|clients|deploy|docs|launcher|models|store|tests|worker)/[\w./-]*\.\w+)`"
)


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text("utf-8"))


def _anchor(heading: str) -> str:
    """Return the anchor that MkDocs and GitHub make of a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", text))


def _anchors(page: Path) -> set[str]:
    return {_anchor(heading) for heading in _HEADING.findall(_prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    for link in _LINK.findall(_prose(page)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in _anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # it names files of earlier versions
        return
    for name in _FILE.findall(_prose(page)):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "folder",
    ["app", "benchmarks", "clients", "deploy", "launcher", "models", "store", "worker", "docker-compose.yml"],
)
def test_every_page_that_code_names_exists(folder: str) -> None:
    files = (ROOT / folder).rglob("*") if (ROOT / folder).is_dir() else [ROOT / folder]
    for file in files:
        if file.suffix in {".py", ".js", ".ts", ".md", ".yml"} and "node_modules" not in file.parts:
            for page in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text("utf-8")):
                assert (ROOT / page).exists(), f"{file.relative_to(ROOT)} names {page}"


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    assert menu == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
