"""The pages build into a site with a search index, with no warning and nothing from another host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM, FLAGS
from tests.docs.blocks import ROOT

pytest.importorskip("mkdocs", reason="mkdocs-material is not installed")

_LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]*\bsrc=[\"']?(?:https?:)?//|<link[^>]*\bhref=[\"']?(?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_and_can_be_searched(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        built = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / built).exists(), built
        assert str(built) in index, built


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not _LOADED.search(page.read_text("utf-8")), page.name


def test_pages_that_are_opened_as_files_can_be_searched(site: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS)).new_page()
        page.goto((site / "how-to" / "train.html").as_uri())
        page.locator("input[name=query]").click()
        page.keyboard.type("false-alarm rate")
        page.locator(".md-search-result__link").first.click()
        page.wait_for_url(re.compile(r"^file://.*\.html"))
        assert "false" in page.locator("article").inner_text().lower()
