"""The entries of the audit trail: order, pages and filters."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nextchar.app.access import audit
from nextchar.app.access.audit import AuditEntryBody, AuditQuery
from nextchar.models.errors import InvalidInput
from nextchar.store.local_blobs import LocalBlobs
from tests.app.access.audit_trail import record_call

DAY_S = 86_400.0


class Trail:
    """The audit trail of a storage."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self.blobs = blobs

    def add(self, about: str, *, key: str | None = "ann", **call: Any) -> AuditEntryBody:
        return record_call(self.blobs, about, key=key, **call)

    def page(self, **query: Any) -> tuple[list[AuditEntryBody], bool]:
        services: Any = SimpleNamespace(blobs=self.blobs)
        access: Any = SimpleNamespace(check_is_unlimited=lambda _: None)
        page = audit.list_audit(services, access, AuditQuery(**query))
        return page.data, page.has_more

    def about(self, **query: Any) -> list[str]:
        return [entry.about for entry in self.page(**query)[0]]


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(LocalBlobs(tmp_path))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time at which entries are made: a list of one number."""
    now = [1_795_563_600.0]
    monkeypatch.setattr("nextchar.store.ids.time.time", lambda: now[0])
    return now


def test_pages_have_every_entry_once_newest_first(trail: Trail, clock: list[float]) -> None:
    for number in range(7):
        clock[0] += 0.6 * DAY_S  # over several days
        trail.add(f"/v1/models/m{number}")
    seen, after, has_more = [], None, True
    while has_more:
        page, has_more = trail.page(after=after, limit=3)
        seen += [entry.about for entry in page]
        after = page[-1].id
    assert seen == [f"/v1/models/m{number}" for number in reversed(range(7))]


def test_filters_by_key_action_subject_and_time(trail: Trail, clock: list[float]) -> None:
    trail.add("/v1/models/a@1")
    clock[0] += 100
    trail.add("/v1/models/b@1", key=None)
    clock[0] += 100
    trail.add("/v1/jobs/job_1", action="cancel_job", key="bob")
    assert trail.about(key="ann") == ["/v1/models/a@1"]
    assert trail.about(key="") == ["/v1/models/b@1"]
    assert trail.about(action="cancel_job") == ["/v1/jobs/job_1"]
    assert trail.about(about="/models/") == ["/v1/models/b@1", "/v1/models/a@1"]
    assert trail.about(since=clock[0] - 100) == ["/v1/jobs/job_1", "/v1/models/b@1"]
    assert trail.about(until=clock[0] - 100) == ["/v1/models/b@1", "/v1/models/a@1"]
    assert trail.about(since=float("inf")) == []
    assert trail.about(until=float("-inf")) == []
    assert trail.about(since=-1e30, until=1e30) != []


def test_a_filter_that_would_read_too_much_says_so(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_READ", 4)
    for number in range(5):
        trail.add(f"/v1/models/m{number}")
    with pytest.raises(InvalidInput, match="narrow the time"):
        trail.page(limit=1, about="/v1/models/m0")
    assert len(trail.page(limit=3)[0]) == 3  # a page that is full reads no more


def test_what_is_read_for_a_filter_is_bounded_by_the_entries_that_match_its_path(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_READ", 4)
    for number in range(4):
        trail.add(f"/v1/models/m{number}")
        trail.add("/v1/jobs/job_1", action="cancel_job")
    assert trail.page(limit=1, action="delete_model", about="nothing") == ([], False), "as many as allowed"
    trail.add("/v1/models/m4")
    with pytest.raises(InvalidInput) as caught:
        trail.page(limit=1, action="delete_model", about="nothing")
    assert (caught.value.code, caught.value.param) == ("audit_range_too_large", "about")


def test_a_model_is_found_by_its_old_and_its_new_name(trail: Trail) -> None:
    renamed = trail.add("/v1/models/old@1", action="rename_model", to="/v1/models/new@1")
    trail.add("/v1/models/other@1")
    for name in ("old@", "new@"):
        assert trail.page(about=name) == ([renamed], False)


def test_an_entry_that_is_damaged_hides_no_other(trail: Trail, tmp_path: Path) -> None:
    entry = trail.add("/v1/models/a")
    trail.add("/v1/models/b")
    [path] = tmp_path.glob(f"audit/*/{entry.id}.*")
    path.write_bytes(b"{")
    assert trail.about() == ["/v1/models/b"]
