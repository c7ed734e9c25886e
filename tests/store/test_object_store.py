import pytest

from store.object_blobs import ObjectBlobs


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("gs://bucket/prefix", {}),
        ("az://container/prefix", {"AZURE_STORAGE_ACCOUNT_NAME": "account"}),
    ],
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
