"""What is said of an error of an object store."""

import pytest
from obstore.exceptions import BaseError

from nextchar.models.errors import StorageFull, Unavailable
from nextchar.store.object_store import (
    NO_CREATE_ONCE,
    describe,
    domain_error,
    domain_errors_of_store,
    refusal,
)

MISSING = "Generic S3 error: <Error><Code>NoSuchBucket</Code></Error>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "x status code: 503 Service Unavailable, <Code>SlowDown</Code>",
            "it answers 503 Service Unavailable SlowDown",
        ),
        ("x status code: 500", "it answers 500"),
        ("error kind: Timeout (1)", "it does not answer in time"),
        ("operation TimedOut", "it does not answer in time"),
        ("error kind: Connect, url", "it cannot be reached"),
        ("HTTP error: broken pipe", "the connection broke"),
        ("no https://secret.example/a?key=1 here\nmore", "no … here"),
        ("", "BaseError"),
    ],
)
def test_an_error_is_described_without_addresses(text: str, said: str) -> None:
    assert describe(BaseError(text)) == said
    found = domain_error(BaseError(text))
    assert isinstance(found, Unavailable) and found.code == "storage_unavailable"
    assert found.message == f"the storage does not work: {said}"


def test_a_missing_object_is_no_error_of_the_store_and_a_missing_bucket_is() -> None:
    with pytest.raises(FileNotFoundError), domain_errors_of_store():
        raise FileNotFoundError("<Code>NoSuchKey</Code>")
    with pytest.raises(Unavailable, match="the storage does not work"), domain_errors_of_store():
        raise FileNotFoundError(MISSING)
    with pytest.raises(Unavailable), domain_errors_of_store():
        raise BaseError("status code: 500")
    with pytest.raises(StorageFull), domain_errors_of_store():
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), domain_errors_of_store():
        raise KeyError("x")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (MISSING, "the bucket does not exist"),
        ("GET http://169.254.169.254/latest/api/token", "there are no credentials"),
        ("<Code>ExpiredToken</Code>", "does not accept the credentials (ExpiredToken)"),
        ("<Code>RequestTimeTooSkewed</Code>", "the clock of this machine is wrong"),
        ("<Code>PermanentRedirect</Code>", "in another region (PermanentRedirect)"),
        ("redirect without LOCATION", "in another region (redirect)"),
        ("status code: 501", NO_CREATE_ONCE),
        ("status code: 403", "do not permit a call (403)"),
        ("status code: 401", "do not permit a call (401)"),
    ],
)
def test_what_only_a_change_of_the_setup_can_end_is_a_refusal_with_advice(text: str, advice: str) -> None:
    assert advice in str(refusal(text))


@pytest.mark.parametrize("text", ["status code: 503", "<Code>SlowDown</Code>", "kind: Timeout", ""])
def test_what_ends_by_itself_is_none(text: str) -> None:
    assert refusal(text) is None
