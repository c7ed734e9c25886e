"""A release: `make release` builds what a company pins, `make release VERSION=0.3.0` cuts that version first.

The version is in pyproject.toml. The files in COPIES repeat it, since npm, Kubernetes and readers need it;
cutting a version changes all of them, and dates the newest section of CHANGELOG.md. `dist/VERSION/` then has
the wheel, the source distribution, the npm package, both images (where a Docker engine runs), the lock files,
a bill of materials with licenses for each, this version's section of the changelog, and SHA256SUMS.
"""

import datetime
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COPIES = (
    "clients/js/package.json",
    "clients/vscode/package.json",
    "clients/vscode/README.md",
    "deploy/kubernetes/overlays/cpu/kustomization.yaml",
    "deploy/kubernetes/overlays/gpu/kustomization.yaml",
    "deploy/kubernetes/overlays/s3/kustomization.yaml",
    "docs/how-to/deploy.md",
    "docs/how-to/editors.md",
    "docs/how-to/install.md",
)
IMAGES = ("api", "worker")
ROLES = ("api", "worker", "serve", "gpu")
SUMS = "SHA256SUMS"


def main(arguments: list[str]) -> None:
    """Cut a version if one is given; build the release, or after `sbom` the bills of materials alone."""
    if arguments == ["sbom"]:
        write_sboms(ROOT / "build" / "sbom")
        return
    if arguments:
        cut(ROOT, arguments[0], datetime.datetime.now(datetime.UTC).date())
    version = version_of(ROOT)
    notes = section(ROOT.joinpath("CHANGELOG.md").read_text(), version)
    folder = ROOT / "dist" / version
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / f"nextchar-{version}-changes.md").write_text(notes)
    build(folder)
    write_sums(folder)
    print(f"{folder.relative_to(ROOT)}:", *sorted(path.name for path in folder.iterdir()), sep="\n  ")
    tag = f"git tag --annotate v{version} --message 'nextchar {version}'"
    print(f"publish it: {tag} && git push origin v{version}")


def version_of(root: Path) -> str:
    """Return the version that pyproject.toml names."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def cut(root: Path, version: str, today: datetime.date) -> None:
    """Write a version and its date into the files of a checkout.

    Raises:
        SystemExit: it is no version, older than the present one, or the changelog has nothing for it.
    """
    old = version_of(root)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or numbers(version) < numbers(old):
        raise SystemExit(f"{version} must be three numbers, such as 0.3.0, and at least {old}")
    changelog = root / "CHANGELOG.md"
    text, found = re.subn(
        r"\A(.*?\n## )\[[\d.]+\] - unreleased\n",
        rf"\g<1>[{version}] - {today}\n",
        changelog.read_text(),
        flags=re.DOTALL,
    )
    if not found:
        raise SystemExit(f"CHANGELOG.md has no section '## [{version}] - unreleased'; write one")
    changelog.write_text(text)
    for name in ("pyproject.toml", *COPIES):
        path, count = root / name, 1 if name == "pyproject.toml" else 0  # versions of packages follow it
        path.write_text(
            re.sub(rf"(?<![\d.]){re.escape(old)}(?!\.?\d)", version, path.read_text(), count=count)
        )


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers, in whose order versions are."""
    return tuple(map(int, version.split(".")))


def section(changelog: str, version: str) -> str:
    """Return a version's section of the changelog, which ends with what to do in an upgrade."""
    found = re.search(rf"^## \[{re.escape(version)}\].*?(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    if not found:
        raise SystemExit(f"CHANGELOG.md has no section of {version}")
    return found[0]


def build(folder: Path) -> None:
    """Build the artifacts. Raises CalledProcessError."""
    run("python", "-m", "build", "--no-isolation", "--outdir", folder, ".")
    if shutil.which("npm"):
        run("npm", "pack", "--silent", "--pack-destination", folder, cwd=ROOT / "clients" / "js")
    else:
        print("npm is not installed: the npm package is left out")
    write_sboms(folder)
    for role in ROLES:
        shutil.copy(ROOT / "requirements" / f"{role}.txt", folder / f"requirements-{role}.txt")
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        print("no Docker engine answers: the images are left out")
        return
    for image in IMAGES:
        tag = f"nextchar-{image}:{folder.name}"
        run("docker", "build", "--platform", "linux/amd64", "--target", image, "--tag", tag, ".")
        archive = folder / f"nextchar-{image}-{folder.name}-amd64.tar"
        run("docker", "save", "--output", archive, tag)
        archive.chmod(0o644)  # Docker lets its owner alone read it
        run("gzip", archive)


def write_sboms(folder: Path) -> None:
    """Write the bill of materials (CycloneDX) of each lock file, with licenses. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    for role in ROLES:
        sbom = folder / f"nextchar-{role}.cdx.json"
        options = ("--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", sbom)
        lock = f"requirements/{role}.txt"
        run("python", "-W", "ignore", "-m", "cyclonedx_py", "requirements", lock, *options)
        sbom.write_text(json.dumps(with_licenses(json.loads(sbom.read_text())), indent=1) + "\n")


def with_licenses(sbom: dict[str, Any]) -> dict[str, Any]:
    """Return a bill of materials with the license of each package that is installed here."""
    for component in sbom["components"]:
        try:
            about = metadata(component["name"])
        except PackageNotFoundError:  # of another platform
            continue
        if expression := about.get("License-Expression"):
            component["licenses"] = [{"expression": expression}]
            continue
        classifiers = [
            one.split(" :: ")[-1] for one in about.get_all("Classifier") or () if "License ::" in one
        ]
        names = classifiers or [line for line in (about.get("License") or "").splitlines()[:1] if line]
        component["licenses"] = [{"license": {"name": name}} for name in names]
    return sbom


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of each file of a folder, as `sha256sum --check` reads them."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / SUMS).write_text("".join(lines))


def run(program: str, *arguments: str | Path, cwd: Path = ROOT) -> None:
    """Run a program, of this environment first. Raises CalledProcessError."""
    own = Path(sys.executable).with_name(program)
    subprocess.run([own if own.exists() else program, *arguments], cwd=cwd, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
