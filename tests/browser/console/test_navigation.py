"""The console's theme, addresses and keyboard shortcuts."""

from playwright.sync_api import expect

from tests.browser.console.windows import Open, open_view, settled
from tests.browser.populated_service import PopulatedService


def test_theme_is_the_systems_until_one_is_chosen(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url, scheme="dark"))
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(root).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Dark theme").click()
    page.reload()
    expect(root).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="Dark theme")).to_have_attribute("aria-pressed", "true")


def test_modules_of_a_view_are_loaded_with_it_and_in_a_page_that_stays_open_all_are(
    service: PopulatedService, open_window: Open
) -> None:
    page = open_window("about:blank")
    page.clock.install()
    loaded: set[str] = set()
    page.on("request", lambda request: loaded.add(request.url.rpartition("/console/views/")[2]))
    open_view(page, service, "/#/models")
    assert "models.js" in loaded and "alerts.js" not in loaded
    with page.expect_response("**/views/alerts.js"):
        page.clock.fast_forward(30_000)


def test_a_view_that_is_left_before_it_has_loaded_does_not_cover_the_next_one(
    service: PopulatedService, open_window: Open
) -> None:
    page = open_window("about:blank")
    page.clock.install()
    page.route("**/views/jobs.js", lambda _: None)  # never received
    open_view(page, service, "/#/models")
    page.evaluate("location.hash = '#/jobs'")
    open_view(page, service, "/#/alerts")
    expect(page.locator("h1")).to_have_text("Alerts")
    page.clock.run_for(1000)
    assert page.locator("h1").text_content() == "Alerts"


def test_back_forward_and_reload_follow_the_address(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + "/#/models"))
    page.get_by_role("link", name="line@1", exact=True).click()
    expect(page.locator("h1")).to_have_text("line@1")
    expect(page).to_have_title("line@1 · nextchar")
    page.get_by_role("link", name="Open playground").click()
    expect(page.locator("h1")).to_have_text("Playground")
    page.go_back()
    expect(page.locator("h1")).to_have_text("line@1")
    page.go_back()
    expect(page.locator("h1")).to_have_text("Models")
    page.go_forward()
    page.go_forward()
    expect(page.locator("h1")).to_have_text("Playground")
    page.get_by_label("Model", exact=True).select_option("names@1")
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("names@1")


def test_keyboard_alone_is_enough(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url))
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    keys.press("Enter")
    expect(page.locator("h1")).to_be_focused()
    keys.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    keys.press("Escape")
    keys.type("ga")
    expect(page.locator("h1")).to_have_text("Anomalies")
    expect(page.locator("h1")).to_be_focused()
    page.get_by_label("Model", exact=True).press("Tab")
    while not page.get_by_label("Log lines").evaluate("area => area === document.activeElement"):
        keys.press("Tab")
    keys.insert_text("lazy-fox bug\nlazy-fxx bug")
    keys.press("Tab")
    keys.press("Enter")
    page.locator(".log-line").first.wait_for()
    while not page.get_by_role("listbox").evaluate("list => list === document.activeElement"):
        keys.press("Tab")
    keys.press("ArrowDown")
    expect(page.locator(".whole-line [data-index]").first).to_be_visible()
    keys.press("ArrowRight")
    expect(page.get_by_role("heading", name="Line 1, character 1")).to_be_visible()
    keys.press("ArrowDown")
    expect(page.get_by_role("heading", name="Line 2", exact=True)).to_be_visible()
    expect(page.locator(".whole-line [data-index]").first).to_be_visible()
    keys.press("End")
    expect(page.get_by_role("heading", name="Line 2, character 12")).to_be_visible()
    keys.press("/")
    expect(page.get_by_label("Search in lines")).to_be_focused()
    keys.insert_text("fxx")
    expect(page.locator(".log-line .line-number")).to_have_text(["2"])
    page.get_by_role("listbox").focus()
    keys.type("gm")
    expect(page.locator("h1")).to_have_text("Models")
