"""The cheap parts of a release: the cut of a version, its changes, licenses and sums."""

import datetime
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.release import COPIES, ROOT, SUMS, cut, numbers, section, version_of, with_licenses, write_sums

TODAY = datetime.date(2026, 12, 24)
CHANGELOG = "# Changelog\n\n## [0.2.0] - unreleased\n\n- New.\n\n## [0.1.0] - unreleased\n\nThe first.\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that name the version."""
    for name in ("pyproject.toml", *COPIES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_a_cut_writes_the_version_everywhere_and_dates_the_newest_changes(checkout: Path) -> None:
    old = version_of(ROOT)
    major, minor, _ = numbers(old)
    new = f"{major}.{minor + 1}.0"
    cut(checkout, new, TODAY)
    assert version_of(checkout) == new
    for name in COPIES:
        before, after = (ROOT / name).read_text(), (checkout / name).read_text()
        assert after == before.replace(old, new) != before, name
    assert json.loads((checkout / "clients/js/package.json").read_text())["version"] == new
    assert (checkout / "CHANGELOG.md").read_text() == CHANGELOG.replace(
        "[0.2.0] - unreleased", f"[{new}] - 2026-12-24"
    )


@pytest.mark.parametrize("version", ["0.1.9", "1.0", "v1.0.0", "1.0.0rc1"])
def test_what_is_no_newer_version_is_refused_and_changes_nothing(checkout: Path, version: str) -> None:
    before = (checkout / "pyproject.toml").read_text()
    with pytest.raises(SystemExit, match="must be three numbers"):
        cut(checkout, version, TODAY)
    assert (checkout / "pyproject.toml").read_text() == before


def test_a_version_without_changes_is_not_cut(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGELOG.replace(" - unreleased", " - 2026-11-01"))
    with pytest.raises(SystemExit, match="write one"):
        cut(checkout, "9.0.0", TODAY)
    assert version_of(checkout) == version_of(ROOT)


def test_every_copy_of_the_version_is_listed() -> None:
    places = ("*.json", "*.yaml", "*.yml", "*.toml", "docs", "clients", "app")  # tests name old ones, too
    search = ["git", "grep", "-lF", version_of(ROOT), "--", *places]
    listed = subprocess.run(search, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(listed.split()) == {"pyproject.toml", *COPIES}


def test_the_changes_of_a_version_are_its_section() -> None:
    assert section(CHANGELOG, "0.2.0") == "## [0.2.0] - unreleased\n\n- New.\n\n"
    assert section(CHANGELOG, "0.1.0").endswith("The first.\n")
    with pytest.raises(SystemExit, match=r"no section of 0\.3\.0"):
        section(CHANGELOG, "0.3.0")
    assert section((ROOT / "CHANGELOG.md").read_text(), version_of(ROOT))


def test_the_bill_of_materials_has_licenses() -> None:
    sbom = with_licenses({"components": [{"name": "pytest"}, {"name": "numpy"}, {"name": "no-such-package"}]})
    first, second, unknown = sbom["components"]
    assert first["licenses"] == [{"expression": "MIT"}]
    assert "BSD" in json.dumps(second["licenses"]) and "licenses" not in unknown


def test_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "b.whl").write_bytes(b"wheel")
    (tmp_path / "a.tgz").write_bytes(b"package")
    write_sums(tmp_path)
    names = [line.split("  ")[1] for line in (tmp_path / SUMS).read_text().splitlines()]
    assert names == ["a.tgz", "b.whl"]
    check = ["sha256sum", "--check", "--quiet", SUMS]
    assert subprocess.run(check, cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "b.whl").write_bytes(b"wheel!")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 1
