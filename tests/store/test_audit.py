"""The audit trail in the storage: order, pages, filters, retention."""

import json
from pathlib import Path

import pytest

import nextchar.store.audit
from nextchar.models.errors import InvalidInput
from nextchar.store.audit import Audit, AuditEntry
from nextchar.store.ids import time_of_id
from nextchar.store.local_blobs import LocalBlobs
from nextchar.store.retention import _DAY_S


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(LocalBlobs(tmp_path))


def add(
    audit: Audit,
    about: str,
    *,
    key: str | None = "ann",
    action: str = "delete_model",
    to: str | None = None,
) -> AuditEntry:
    return audit.record(key=key, address="::1", action=action, about=about, status=200, request_id="r", to=to)


def about(found: tuple[list[AuditEntry], bool]) -> list[str]:
    return [entry.about for entry in found[0]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time at which entries are made: a list of one number."""
    now = [1_795_563_600.0]
    monkeypatch.setattr("nextchar.store.ids.time.time", lambda: now[0])
    return now


def test_pages_have_every_entry_once_newest_first(audit: Audit, clock: list[float]) -> None:
    for number in range(7):
        clock[0] += 0.6 * _DAY_S  # over several days
        add(audit, f"/v1/models/m{number}")
    seen, after, has_more = [], None, True
    while has_more:
        page, has_more = audit.entries(after=after, limit=3)
        seen += [entry.about for entry in page]
        after = page[-1].id
    assert seen == [f"/v1/models/m{number}" for number in reversed(range(7))]


def test_filters_by_key_action_subject_and_time(audit: Audit, clock: list[float]) -> None:
    add(audit, "/v1/models/a@1")
    clock[0] += 100
    add(audit, "/v1/models/b@1", key=None)
    clock[0] += 100
    add(audit, "/v1/jobs/job_1", action="cancel_job", key="bob")
    assert about(audit.entries(limit=9, key="ann")) == ["/v1/models/a@1"]
    assert about(audit.entries(limit=9, key="")) == ["/v1/models/b@1"]
    assert about(audit.entries(limit=9, action="cancel_job")) == ["/v1/jobs/job_1"]
    assert about(audit.entries(limit=9, about="/models/")) == ["/v1/models/b@1", "/v1/models/a@1"]
    assert about(audit.entries(limit=9, since=clock[0] - 100)) == ["/v1/jobs/job_1", "/v1/models/b@1"]
    assert about(audit.entries(limit=9, until=clock[0] - 100)) == ["/v1/models/b@1", "/v1/models/a@1"]
    assert about(audit.entries(limit=9, since=float("inf"))) == []
    assert about(audit.entries(limit=9, until=float("-inf"))) == []
    assert about(audit.entries(limit=9, since=-1e30, until=1e30)) != []


def test_a_filter_that_would_read_too_much_says_so(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nextchar.store.audit, "MAX_READ", 4)
    for number in range(5):
        add(audit, f"/v1/models/m{number}")
    with pytest.raises(InvalidInput, match="narrow the time"):
        audit.entries(limit=1, about="/v1/models/m0")
    assert len(audit.entries(limit=3)[0]) == 3  # a page that is full reads no more


def test_what_is_read_for_a_filter_is_bounded_by_the_entries_that_match_its_path(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextchar.store.audit, "MAX_READ", 4)
    for number in range(4):
        add(audit, f"/v1/models/m{number}")
        add(audit, "/v1/jobs/job_1", action="cancel_job")
    assert audit.entries(limit=1, action="delete_model", about="nothing") == ([], False), "as many as allowed"
    add(audit, "/v1/models/m4")
    with pytest.raises(InvalidInput) as caught:
        audit.entries(limit=1, action="delete_model", about="nothing")
    assert (caught.value.code, caught.value.param) == ("audit_range_too_large", "about")


def test_a_page_that_ends_with_the_last_entry_has_no_more(audit: Audit) -> None:
    add(audit, "/v1/models/a")
    add(audit, "/v1/models/b")
    assert [audit.entries(limit=limit)[1] for limit in (1, 2, 3)] == [True, False, False]


def test_a_model_is_found_by_its_old_and_its_new_name(audit: Audit) -> None:
    renamed = add(audit, "/v1/models/old@1", action="rename_model", to="/v1/models/new@1")
    add(audit, "/v1/models/other@1")
    for name in ("old@", "new@"):
        assert audit.entries(limit=9, about=name) == ([renamed], False)


def test_names_of_keys_may_have_dots(audit: Audit) -> None:
    entry = add(audit, "/v1/models/a", key="team.ann")
    assert audit.entries(limit=9, key="team.ann") == ([entry], False)
    assert audit.entries(limit=9, key="team") == audit.entries(limit=9, key="ann") == ([], False)


def test_an_entry_has_the_time_of_its_id(audit: Audit, clock: list[float]) -> None:
    clock[0] += 0.0019
    entry = add(audit, "/v1/models/a")
    assert entry.at == time_of_id("audit", entry.id) == 1_795_563_600.001


def test_entries_of_one_day_are_paged_and_filtered_by_time(audit: Audit, clock: list[float]) -> None:
    entries = []
    for _ in range(3):
        clock[0] += 10
        entries.append(add(audit, "/v1/models/a"))
    first, second, third = entries
    assert audit.entries(after=third.id, limit=1) == ([second], True)
    assert audit.entries(after=second.id, limit=1) == ([first], False)
    assert audit.entries(after=first.id, limit=1) == ([], False)
    assert audit.entries(since=second.at, until=second.at, limit=9) == ([second], False)
    assert audit.entries(after=third.id, until=first.at, limit=9) == ([first], False)


def test_what_is_no_entry_is_not_listed(audit: Audit, clock: list[float], tmp_path: Path) -> None:
    entry = add(audit, "/v1/models/a")
    (tmp_path / "audit" / "2026-11-25").mkdir(parents=True, exist_ok=True)
    for name in ("notes.of.ann.json", "zzz.of.ann.json"):
        (tmp_path / "audit" / "2026-11-25" / name).write_bytes(b"{}")
    assert audit.entries(limit=9) == ([entry], False)
    assert audit.entries(limit=9, after="audit_fffffffffffffffffffff") == ([entry], False)


def test_an_entry_that_is_damaged_hides_no_other(audit: Audit, tmp_path: Path) -> None:
    entry = add(audit, "/v1/models/a")
    add(audit, "/v1/models/b")
    [path] = tmp_path.glob(f"audit/*/{entry.id}.*")
    path.write_bytes(b"{")
    assert about(audit.entries(limit=9)) == ["/v1/models/b"]


def test_cursor_that_is_no_id_is_refused(audit: Audit) -> None:
    for after in ("../../jobs", ""):
        with pytest.raises(InvalidInput, match="is not the id of an entry") as caught:
            audit.entries(limit=9, after=after)
        assert (caught.value.code, caught.value.param) == ("unknown_cursor", "after")


def test_sweep_deletes_whole_days_that_are_over(audit: Audit, clock: list[float]) -> None:
    add(audit, "/v1/models/old")
    clock[0] += 3 * _DAY_S
    add(audit, "/v1/models/new")
    assert audit.sweep(days=4, now=clock[0]) == 0
    assert audit.sweep(days=3, now=clock[0] + 100) == 0, "the day is not over for all of its entries"
    assert audit.sweep(days=2, now=clock[0]) == 1
    assert about(audit.entries(limit=9)) == ["/v1/models/new"]


def test_texts_that_are_no_unicode_are_stored(audit: Audit, tmp_path: Path) -> None:
    entry = add(audit, "/v1/corpora/\udc80\n\x1b[2J")
    [path] = tmp_path.glob("audit/*/*.json")
    assert b"\n" not in path.read_bytes() and b"\x1b" not in path.read_bytes()
    assert json.loads(path.read_bytes())["id"] == entry.id
