"""The JavaScript client as a package: what it exports, how large it is, and that its types say so."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "clients" / "js"
PACKAGE = json.loads((FOLDER / "package.json").read_text())
PACKAGES = ROOT / ".venv" / "node" / "node_modules"
MODULES = [entry["default"] for entry in PACKAGE["exports"].values() if isinstance(entry, dict)]


def node(*arguments: str, cwd: Path = FOLDER) -> str:
    """Run Node.js, or skip the test; return what it says."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("no Node.js on this machine")
    done = subprocess.run(
        [path, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_module_is_under_twelve_kilobytes_compressed() -> None:
    assert len(gzip.compress((FOLDER / "nextchar.js").read_bytes(), 9)) < 12_000


def test_module_needs_nothing_but_itself() -> None:
    assert not re.findall(
        r"^\s*(?:import\b|export .* from)", (FOLDER / "nextchar.js").read_text(), re.MULTILINE
    )
    for name in MODULES:
        assert set(re.findall(r'from "(.*)"', (FOLDER / name).read_text())) <= {"./nextchar.js"}


def test_every_file_that_is_named_is_there() -> None:
    entries = [entry for entry in PACKAGE["exports"].values() if isinstance(entry, dict)]
    named = {*PACKAGE["files"], *(path for entry in entries for path in entry.values())}
    assert all((FOLDER / name).is_file() for name in named)
    assert PACKAGE["license"] == "Apache-2.0" and "dependencies" not in PACKAGE


def test_version_is_the_services() -> None:
    assert f'version = "{PACKAGE["version"]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_types_declare_just_what_the_module_exports(name: str) -> None:
    script = f"import({json.dumps(name)}).then(module => console.log(JSON.stringify(Object.keys(module))))"
    exported = json.loads(node("--input-type=module", "-e", script))  # and it loads where there is no page
    types = (FOLDER / name.replace(".js", ".d.ts")).read_text()
    assert sorted(exported) == sorted(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE))


USE = """
import * as state from "@codemirror/state";
import * as view from "@codemirror/view";
import { Nextchar, NextcharError, Suggester, attach, highlight } from "nextchar";
import { codemirror } from "nextchar/codemirror";
import { monaco } from "nextchar/monaco";
import type * as Monaco from "monaco-editor";

const client = new Nextchar({ url: "https://nextchar.example", key: "k" });
const answer = client.complete("m", "p", { until: "line" });
export const text: Promise<string> = answer.then(({ completions }) => completions[0]!.text);
export async function all(): Promise<string> {
  let text = "";
  for await (const event of client.stream("m", "p", { n: 2 })) if (event.type === "piece") text += event.text;
  return text;
}
export const extension: state.Extension = codemirror({ model: "m" }, { state, view });
export const provider = (editor: typeof Monaco) => monaco({ model: "m", until: "word" }, editor, "lua");
const field = document.createElement("textarea");
field.addEventListener("nextchar:error", ({ detail }) => detail.error instanceof NextcharError);
export const end: () => void = attach(field, { model: "m", mode: "list", announce: (text) => text });
export const found: Promise<{ text: string }[]> = highlight(field, { model: "m", live: true }).ready;
export const suggester = new Suggester(client, "m", { until: "confidence" });
// @ts-expect-error: there is no such mode
attach(field, { mode: "menu" });
"""


def test_types_fit_how_it_is_used(tmp_path: Path) -> None:
    if not (PACKAGES / "typescript").exists():
        pytest.skip("the npm package typescript is not installed (tests/node)")
    (tmp_path / "use.ts").write_text(USE)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    modules = tmp_path / "node_modules"
    modules.mkdir()
    for name in ("@codemirror", "@marijn", "monaco-editor", "style-mod", "crelt", "w3c-keyname"):
        (modules / name).symlink_to(PACKAGES / name)
    (modules / "nextchar").symlink_to(FOLDER)
    compiler = str(PACKAGES / "typescript" / "bin" / "tsc")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    node(compiler, *options, "--lib", "es2022,dom,dom.iterable,dom.asynciterable", "use.ts", cwd=tmp_path)
