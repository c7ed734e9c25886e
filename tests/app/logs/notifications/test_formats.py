"""The bodies that Slack and PagerDuty get."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from nextchar.app.logs.notifications.formats import PAGERDUTY_URL, formatted
from nextchar.app.logs.notifications.targets import TargetCreate


def message(kind: str, data: dict[str, Any]) -> str:
    """A message as a webhook gets it."""
    return json.dumps({"type": kind, "timestamp": "2026-11-24T23:42:10.000Z", "data": data})


ALERT = {
    "id": "alert_1",
    "model": "sshd",
    "severity": "critical",
    "title": "Invalid user »<b>&« from 1.2.3.4",
    "count": 7,
    "sources": ["web-1", "web-2"],
    "generatorURL": "https://nextchar.example.org/#/alerts?alert=alert_1",
}
FIRING = message("alert.firing", ALERT)


def test_a_standard_message_stays_as_it_is() -> None:
    assert formatted(FIRING, "standard") == FIRING


def test_slack_gets_a_text_whose_control_characters_are_escaped() -> None:
    assert json.loads(formatted(FIRING, "slack")) == {
        "text": "critical: Invalid user »&lt;b&gt;&amp;« from 1.2.3.4 (7 lines of sshd)"
        " <https://nextchar.example.org/#/alerts?alert=alert_1|Open>"
    }
    job = message("job.failed", {"id": "job_1"})
    assert json.loads(formatted(job, "slack")) == {"text": "job.failed: job_1"}


def test_pagerduty_gets_an_incident_that_is_resolved_under_the_same_key() -> None:
    fired = json.loads(formatted(FIRING, "pagerduty", routing_key="key"))
    assert (fired["routing_key"], fired["event_action"], fired["dedup_key"]) == ("key", "trigger", "alert_1")
    assert fired["payload"]["severity"] == "critical"
    assert fired["payload"]["source"] == "web-1, web-2"
    resolved = message("alert.resolved", {"id": "alert_1", "model": "sshd", "template": "t"})
    ended = json.loads(formatted(resolved, "pagerduty", routing_key="key"))
    assert (ended["event_action"], ended["dedup_key"]) == ("resolve", "alert_1")


@pytest.mark.parametrize(
    "wanted",
    [
        {"kind": "alertmanager", "format": "slack"},
        {"kind": "webhook", "format": "pagerduty"},
        {"kind": "webhook", "routing_key": "key"},
        {"kind": "webhook", "format": "pagerduty", "routing_key": "key", "events": ["job.failed"]},
    ],
)
def test_fields_that_do_not_fit_the_format_are_refused(wanted: dict[str, Any]) -> None:
    TargetCreate.model_validate({"kind": "webhook", "url": "http://192.0.0.9/", "format": "slack"})
    pagerduty = TargetCreate.model_validate({"kind": "webhook", "format": "pagerduty", "routing_key": "key"})
    assert pagerduty.url == PAGERDUTY_URL
    with pytest.raises(ValidationError):
        TargetCreate.model_validate({"kind": "webhook"})
    with pytest.raises(ValidationError):
        TargetCreate.model_validate({"url": "http://192.0.0.9/", **wanted})
