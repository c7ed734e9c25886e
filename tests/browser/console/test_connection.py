"""The console without a connection, and with API keys."""

from pathlib import Path

from playwright.sync_api import expect

from app.keys import new_key
from app.main import create_app
from app.settings import ApiSettings
from tests.app.service import served
from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import PopulatedService


def test_lost_connection_shows_a_banner_until_it_returns(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url))
    page.context.set_offline(True)
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("does not respond")
    expect(page.locator("#banner")).to_contain_text("Reconnecting")
    page.context.set_offline(False)
    expect(page.locator("h1")).to_have_text("Models")
    expect(page.get_by_role("link", name="line@1", exact=True)).to_be_visible()
    expect(page.locator("#banner")).to_be_empty()


def test_required_key_is_requested_until_it_is_valid(
    open_window: Open, tmp_path: Path, redis_url: str
) -> None:
    secret, line = new_key("console", scopes="read,complete,train,admin")
    (tmp_path / "keys.txt").write_text(line)
    settings = ApiSettings(
        data_dir=tmp_path / "data", redis_url=redis_url, port=0, api_keys_file=tmp_path / "keys.txt"
    )
    with served(create_app(settings)) as url:
        page = open_window(url)
        dialog = page.get_by_role("dialog", name="API key required")
        dialog.get_by_label("API key").fill("wrong")
        dialog.get_by_label("API key").press("Enter")
        expect(dialog).to_contain_text("invalid or was revoked")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_role("button", name="Use key").click()
        expect(page.locator("h1")).to_have_text("Train a character-level model on your text")
        page.reload()
        expect(page.get_by_role("button", name="Use the sample text")).to_be_visible()
        (tmp_path / "own.txt").write_text("some words of my own\n" * 20)
        page.set_input_files("#file", tmp_path / "own.txt")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


def test_key_with_name_patterns_uploads_a_file_of_any_name(
    open_window: Open, tmp_path: Path, redis_url: str
) -> None:
    secret, line = new_key("console", scopes="read,complete,train", models="mine*")
    (tmp_path / "keys.txt").write_text(line)
    settings = ApiSettings(
        data_dir=tmp_path / "data", redis_url=redis_url, port=0, api_keys_file=tmp_path / "keys.txt"
    )
    (tmp_path / "own.txt").write_text("some words of my own\n" * 20)
    with served(create_app(settings)) as url:
        page = open_window(url)
        dialog = page.get_by_role("dialog", name="API key required")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_role("button", name="Use key").click()
        page.set_input_files("#file", tmp_path / "own.txt")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()
