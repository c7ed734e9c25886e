from typing import Any

import pytest

from nextchar.store import object_store
from nextchar.store.object_blobs import ObjectBlobs
from nextchar.store.object_store import RetryLimits, open_store


@pytest.mark.parametrize(
    ("url", "variables"),
    [("gs://bucket/prefix", {}), ("az://container/prefix", {"AZURE_STORAGE_ACCOUNT_NAME": "account"})],
)
def test_other_providers_can_be_opened(
    url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ObjectBlobs.at(url)


def test_url_that_obstore_cannot_use_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Account must be specified"):
        ObjectBlobs.at("az://container/prefix")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options with which obstore was called."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(object_store, "from_url", lambda url, **options: calls.append({"url": url} | options))
    return calls


LIMITS = RetryLimits(connect_s=1.0, stall_s=2.0, request_s=3.0, upload_s=40.0, stream_s=5.0)


def test_limits_and_options_of_the_environment_are_passed_on(opened: list[dict[str, Any]]) -> None:
    open_store("s3://bucket/x", LIMITS, {"AWS_ALLOW_HTTP": "true", "AWS_PROXY_URL": "http://p", "HOME": "/"})
    [options] = opened
    client, retries = options["client_options"], options["retry_config"]
    assert client["connect_timeout"].total_seconds() == 1.0 and client["read_timeout"].total_seconds() == 2.0
    assert client["timeout"].total_seconds() >= 3600, "a large download takes long"
    assert {name: client[name] for name in client if "timeout" not in name} == {
        "allow_http": "true",
        "proxy_url": "http://p",
    }
    assert retries["retry_timeout"].total_seconds() == 3.0
    backoff = retries["backoff"]
    assert 0 < backoff["init_backoff"].total_seconds() < 1 < backoff["base"] <= 2
    assert backoff["init_backoff"] < backoff["max_backoff"]


def test_s3_copies_by_its_own_condition_unless_the_environment_says_otherwise(
    opened: list[dict[str, Any]],
) -> None:
    open_store("s3://bucket/x", LIMITS, {})
    open_store("s3://bucket/x", LIMITS, {"AWS_COPY_IF_NOT_EXISTS": "header: x: y"})
    open_store("gs://bucket/x", LIMITS, {})
    open_store("memory:///")
    s3, other, google, memory = opened
    assert (s3["copy_if_not_exists"], s3["disable_bulk_delete"]) == ("multipart", True)
    assert "copy_if_not_exists" not in other and other["disable_bulk_delete"]
    assert not {"copy_if_not_exists", "disable_bulk_delete"} & set(google)
    assert memory == {"url": "memory:///"}
