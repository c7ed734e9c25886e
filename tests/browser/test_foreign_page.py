"""What a page of an attacker can do to a service on loopback without API keys: nothing."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import CHROMIUM, FLAGS, Site
from tests.browser.test_other_origin import origin  # noqa: F401 -- a fixture

ATTACKS = """async (url) => {
  const answers = [];
  const attempt = async (path, options) => {
    try {
      const response = await fetch(url + path, options);
      answers.push(response.type === 'opaque' ? 'opaque' : `read: ${await response.text()}`);
    } catch (error) { answers.push(error.name); }
  };
  await attempt('/v1/corpora?name=evil', { method: 'POST', mode: 'no-cors', body: 'a text of the page' });
  await attempt('/v1/corpora?name=evil', { method: 'POST', body: 'a text of the page' });
  await attempt('/v1/models/line', { method: 'DELETE' });
  await attempt('/v1/models/line/complete', { method: 'POST', mode: 'no-cors', body: '{"prompt": "l"}' });
  await attempt('/v1/models/line/complete',
    { method: 'POST', mode: 'no-cors', body: new Blob(['{"prompt": "l"}']) });
  await attempt('/v1/models/line', {});
  await attempt('/openapi.json', {});
  navigator.sendBeacon(url + '/v1/corpora?name=evil', 'a text of the page');
  const form = document.createElement('form');
  Object.assign(form, { method: 'post', enctype: 'text/plain', action: url + '/v1/corpora?name=evil' });
  const frame = Object.assign(document.createElement('iframe'), { name: 'answer' });
  form.target = 'answer';
  document.body.append(frame, form);
  const answered = new Promise((resolve) => frame.addEventListener('load', resolve));
  form.submit();
  await answered;
  return answers;
}"""

EMBED = """async (url) => {
  const load = (element, attribute, address) => new Promise((resolve) => {
    element.onload = () => resolve('loaded');
    element.onerror = () => resolve('refused');
    element[attribute] = url + address;
    document.body.append(element);
  });
  return [
    await load(new Image(), 'src', '/console/favicon.svg'),
    await load(document.createElement('script'), 'src', '/v1/models'),
    await load(document.createElement('script'), 'src', '/console/app.js'),
  ];
}"""


def test_page_of_another_origin_changes_and_reads_nothing(
    page: Page,
    site: Site,
    origin: str,  # noqa: F811
) -> None:
    page.goto(f"{origin}/{site.url.removeprefix('http://')}")
    answers = page.evaluate(ATTACKS, site.url)
    assert answers == ["TypeError"] * 7  # each answer is kept from the page, also that nothing was done
    with httpx.Client(base_url=site.url) as http:
        assert http.get("/v1/corpora").json()["data"] == []
        assert {one["id"] for one in http.get("/v1/models").json()["data"]} >= {"line@1", "names@1"}


def test_page_of_another_origin_embeds_nothing(page: Page, site: Site, origin: str) -> None:  # noqa: F811
    page.goto(f"{origin}/{site.url.removeprefix('http://')}")
    assert page.evaluate(EMBED, site.url) == ["refused", "refused", "refused"]
    framed: list[str] = []
    page.on("console", lambda said: framed.append(said.text))
    for path in ("/", "/docs", "/v1/models"):
        framed.clear()
        page.evaluate(
            """(address) => new Promise((resolve) => {
              const frame = document.createElement('iframe');
              frame.onload = resolve;
              frame.src = address;
              document.body.append(frame);
            })""",
            site.url + path,
        )
        page.wait_for_timeout(0)
        assert any("frame-ancestors" in text or "Framing" in text for text in framed), (path, framed)


@pytest.fixture
def rebound(browser: Browser) -> Iterator[Page]:
    """A window for which the host name rebound.example is this machine."""
    flags = [*FLAGS, "--host-resolver-rules=MAP rebound.example 127.0.0.1"]
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    yield other.new_page()
    other.close()


def test_page_of_a_rebound_host_name_is_misdirected(rebound: Page, site: Site) -> None:
    rebound.goto(f"{site.url}/clients/js/README.md")  # the service is reachable in this window
    port = urlsplit(site.url).port
    for path in ("/", "/v1/models"):
        answer = rebound.goto(f"http://rebound.example:{port}{path}")
        assert answer is not None and answer.status == 421
        sent = rebound.evaluate(
            "fetch('/v1/corpora', { method: 'POST', body: 'x' }).then((r) => r.status, (e) => e.name)"
        )
        assert sent in (421, "TypeError")  # TypeError: the answer's policy lets its page call nothing
    assert httpx.get(f"{site.url}/v1/corpora").json()["data"] == []
