"""What the benchmark of events sends is right, and all of it is counted."""

from benchmarks import events
from nextchar.app.acceptance.schemas import EventsCreate


def test_each_event_is_valid_and_sent_once() -> None:
    sent = [event for number in range(3) for event in events.batch(number, "m@1")]
    assert len(EventsCreate.model_validate({"events": sent}).events) == len(sent)
    assert len({event["id"] for event in sent}) == len(sent)
    assert len({(event["suggestion_id"], event["type"]) for event in sent}) == len(sent)
