"""Accessibility of a page by axe-core's rules."""

from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

COLOR_RULES: dict[str, Any] = {
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
}
"""Only the rules that depend on colors, for a page that all rules have checked in other colors."""


def violations(page: Page, context: str | None = None, **options: Any) -> dict[str, list[str]]:
    """Return the HTML of the elements that violate a rule, by the rule; axe loads once per document."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE_SCRIPT)
    # What else axe has to say is megabytes of JSON, and takes longer than the rules.
    run = """async ([context, options]) => (await axe.run(context ?? document, options)).violations
      .map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])"""
    return dict(page.evaluate(run, [context, {"resultTypes": ["violations"], **options}]))
