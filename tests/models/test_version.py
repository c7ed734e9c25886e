"""The version of nextchar, installed or not."""

import importlib.metadata

import pytest

from nextchar.models import installed_version


def test_the_version_is_that_of_the_installed_package_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"nextchar": "1.2.3"}.__getitem__)
    assert installed_version() == "1.2.3"

    def fail(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", fail)
    assert installed_version() == "unknown"
