"""Uploads in the console, and the files that are rejected."""

import gzip
import zipfile
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.browser.console.windows import Open, open_view, settled
from tests.browser.populated_service import PopulatedService


def test_file_becomes_a_corpus_and_a_repeated_upload_is_reported(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(service.url + service.views["corpora"]))
    file = tmp_path / "my words.txt.gz"
    file.write_bytes(gzip.compress(b"some words in a file\n" * 20))
    page.set_input_files("#file", file)
    expect(page.get_by_role("heading", name="my-words")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("420")
    open_view(page, service, service.views["corpora"])
    page.set_input_files("#file", file)
    expect(page.locator(".toast")).to_contain_text("was uploaded before")
    file.write_bytes(gzip.compress(b"other words in a file\n" * 20))
    open_view(page, service, service.views["corpora"])
    page.set_input_files("#file", file)
    expect(page.get_by_role("heading", name="my-words@2")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the corpus").click()
    page.get_by_role("link", name="my-words", exact=True).click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the corpus").click()
    expect(page.get_by_role("heading", name="Corpora")).to_be_visible()
    expect(page.get_by_role("link", name="my-words")).to_have_count(0)


def test_files_of_an_archive_become_one_corpus(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "two texts.zip", "w") as archive:
        archive.writestr("a.txt", "one text\n" * 20)
        archive.writestr("b.txt", "another text\n" * 20)
    page = settled(open_window(service.url + service.views["corpora"]))
    page.set_input_files("#file", tmp_path / "two texts.zip")
    expect(page.get_by_role("heading", name="two-texts")).to_be_visible()
    assert httpx.get(f"{service.url}/v1/corpora/two-texts").json()["characters"] == 20 * (9 + 13)
    httpx.delete(f"{service.url}/v1/corpora/two-texts").raise_for_status()


def test_kind_of_a_corpus_is_shown_and_can_be_changed(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(service.url + service.views["corpora"]))
    file = tmp_path / "short words.txt"
    file.write_text("".join(f"{a}{b}{c}\n" for a in "abdefg" for b in "aeiou" for c in "klmnrst"))
    page.set_input_files("#file", file)
    kind = page.get_by_label("Kind")
    expect(kind).to_have_value("records")
    expect(page.get_by_text("Its lines are sorted. Training shuffles the lines")).to_be_visible()
    kind.select_option("text")
    expect(page.get_by_text("It was chosen, not detected. Training keeps the order")).to_be_visible()
    assert httpx.get(f"{service.url}/v1/corpora/short-words").json()["kind"] == "text"
    page.route("**/v1/corpora/*", lambda route: route.abort())
    kind.select_option("code")
    expect(page.locator(".field-error")).to_contain_text("The service")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(50), "is an image"),
        ("old.txt", "Größe".encode("latin-1") * 9, "iconv -f latin1 -t utf-8"),
        ("empty.txt", b"", "is empty"),
        ("paper.pdf", b"%PDF-1.7 ...", "pdftotext"),
        ("zeros.txt", b"abc\0def", "not UTF-8 text"),
    ],
)
def test_file_that_is_not_text_is_rejected_before_it_is_sent(
    service: PopulatedService, open_window: Open, tmp_path: Path, name: str, contents: bytes, message: str
) -> None:
    page = settled(open_window(service.url + service.views["corpora"]))
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    file = tmp_path / name
    file.write_bytes(contents)
    page.set_input_files("#file", file)
    expect(page.get_by_role("alert")).to_contain_text(message)
    assert sent == []


def test_file_that_is_not_utf8_can_be_uploaded_as_bytes(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(service.url + service.views["corpora"]))
    (tmp_path / "latin.txt").write_bytes("Größe und Maß\n".encode("latin-1") * 20)
    page.set_input_files("#file", tmp_path / "latin.txt")
    page.get_by_role("button", name="Upload as bytes").click()
    expect(page.get_by_role("heading", name="latin")).to_be_visible()
    assert httpx.get(f"{service.url}/v1/corpora/latin").json()["encoding"] == "bytes"


def test_file_above_the_limit_is_rejected_before_it_is_sent(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(service.url + service.views["corpora"]))
    with (tmp_path / "huge.log").open("wb") as huge:
        huge.truncate(2 << 30)  # sparse: uses no disk space
    page.set_input_files("#file", tmp_path / "huge.log")
    expect(page.get_by_role("alert")).to_contain_text("is 2.0 GiB; this service accepts at most 1.0 GiB")
    expect(page.get_by_role("alert")).to_contain_text("NEXTCHAR_MAX_CORPUS_BYTES")


@pytest.mark.parametrize("stalled_call", ["/v1/corpora?name=slow", "/console/about.json"])
def test_upload_can_be_cancelled(
    stalled_call: str, service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(service.url + service.views["corpora"]))
    stalled: list[Route] = []

    def stall(route: Route) -> None:
        stalled.append(route)

    page.route(f"**{stalled_call}", stall)
    (tmp_path / "slow.txt").write_text("slow " * 99)
    page.set_input_files("#file", tmp_path / "slow.txt")
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Upload cancelled. Nothing was stored.")).to_be_visible()
    for route in stalled:
        route.abort()


def test_carriage_returns_come_with_what_to_do_about_them(
    service: PopulatedService, open_window: Open
) -> None:
    text = "".join(f"line {n}\r\n" for n in range(1400)).encode()
    corpus = httpx.post(f"{service.url}/v1/corpora", content=text).json()["id"]
    page = settled(open_window(f"{service.url}/#/corpora/{corpus}"))
    warning = page.get_by_text("1,400 carriage returns")
    expect(warning).to_contain_text("convert the file")
    expect(warning.locator("code").first).to_have_text("dos2unix FILE")
