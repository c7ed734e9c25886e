"""The commands of tutorials and how-to guides work as they stand."""

from pathlib import Path

import pytest

from nextchar.launcher.stack import Stack
from tests.docs.blocks import ROOT, RUN, blocks, run

DOCS = ROOT / "docs"

PAGES = [*sorted((DOCS / "tutorials").glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
"""Guides use the models that the tutorials make, so tutorials come first."""


def test_every_tutorial_has_commands_that_are_run() -> None:
    for page in (DOCS / "tutorials").glob("*.md"):
        assert sum(block.kind in RUN for block in blocks(page)) > 2, page.name


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_a_command_that_is_not_run_has_a_prompt(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "console":
            assert block.text.startswith("$ "), block.text


@pytest.mark.long  # a minute of processor time; what the README shows is in make test
def test_commands_work_page_by_page(stack: Stack, tmp_path: Path) -> None:
    for name in ("README.md", "CONTRIBUTING.md", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for page in PAGES:
        for block in blocks(page):
            if block.kind in RUN:
                try:
                    run(block, url=stack.url, folder=tmp_path)
                except AssertionError as failure:
                    pytest.fail(f"{page.relative_to(ROOT)}: {failure}")
