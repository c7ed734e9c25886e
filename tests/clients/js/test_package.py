"""The JavaScript client as an npm package: its files, its size and its exports."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.clients.js.node import FOLDER, PACKAGES, ROOT, node, require_packages

PACKAGE = json.loads((FOLDER / "package.json").read_text())
MODULES = [entry["default"] for entry in PACKAGE["exports"].values() if isinstance(entry, dict)]


def imports(name: str) -> set[str]:
    """Return the modules that a module imports when it is loaded, as they are written."""
    source = (FOLDER / name).read_text()
    return set(re.findall(r'^(?:import|export)\b[^;"]*?(?:from )?"(.*)";$', source, re.MULTILINE))


def loaded_with(name: str) -> set[str]:
    """Return a module's name and those of all modules that it imports, directly or not."""
    found, todo = set[str](), {name}
    while todo:
        found.add(module := todo.pop())
        todo |= {path.removeprefix("./") for path in imports(module) if path.startswith("./")} - found
    return found


def compressed_bytes(name: str) -> int:
    """Return how much of a module is sent."""
    return len(gzip.compress((FOLDER / name).read_bytes(), 9))


def test_entry_and_what_it_imports_are_under_fourteen_kilobytes_compressed() -> None:
    names = loaded_with("nextchar.js")
    assert names >= {"client.js", "ghost-text.js", "suggester.js"} and not names & {"list.js", "highlight.js"}
    assert sum(map(compressed_bytes, names)) < 14_000
    assert max(map(compressed_bytes, ("list.js", "highlight.js", "reporter.js"))) < 4_000


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_module_imports_its_neighbors_only(path: Path) -> None:
    peers = {"react"} if path.name == "react.js" else set()
    assert all(re.fullmatch(r"\./[a-z-]+\.js", name) for name in imports(path.name) - peers)
    assert all((FOLDER / name).is_file() for name in loaded_with(path.name))


@pytest.mark.parametrize("name", ["codemirror.js", "monaco.js"])
def test_editors_load_neither_fields_nor_the_entry(name: str) -> None:
    assert loaded_with(name) == {name, "client.js", "suggester.js"}


def test_npm_packs_every_module_its_types_the_recipes_and_the_license(tmp_path: Path) -> None:
    folder = tmp_path / "clients" / "js"
    shutil.copytree(FOLDER.parent, tmp_path / "clients", symlinks=True)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    listed = json.loads(node("pack", "--dry-run", "--json", cwd=folder, program="npm"))
    # npm 11 and earlier print a list, later ones an object by package name.
    packed = listed[0] if isinstance(listed, list) else listed["nextchar"]
    files = {entry["path"] for entry in packed["files"]}
    source = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*")}
    assert files == source | {"LICENSE"}
    entries = [entry for entry in PACKAGE["exports"].values() if isinstance(entry, dict)]
    assert files >= {path.removeprefix("./") for entry in entries for path in entry.values()}
    assert PACKAGE["license"] == "Apache-2.0" and "dependencies" not in PACKAGE


def test_version_is_the_services() -> None:
    assert f'version = "{PACKAGE["version"]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_types_declare_exactly_the_modules_exports(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    if name == "./react.js":
        require_packages("react")
        (tmp_path / "node_modules").symlink_to(PACKAGES)
    script = f"import({json.dumps(name)}).then(module => console.log(JSON.stringify(Object.keys(module))))"
    exported = json.loads(
        node("--input-type=module", "-e", script, cwd=tmp_path)
    )  # it loads without a page, too
    types = (FOLDER / name.replace(".js", ".d.ts")).read_text()
    assert sorted(exported) == sorted(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE))
