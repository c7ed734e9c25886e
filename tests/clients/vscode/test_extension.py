"""The extension of VS Code without the editor: its provider, called as by the editor, and a real service."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.service import serving_real
from tests.browser.reciting import following
from tests.clients.js.node import ROOT, node

FOLDER = ROOT / "clients" / "vscode"
MANIFEST = json.loads((FOLDER / "package.json").read_text())

TABLE = {
    "\n": {"a": 1.0},
    "a": {"d": 0.6, "n": 0.4},
    "d": {"x": 1.0},
    "n": {"y": 1.0},
    "x": {"\n": 1.0},
    "y": {"\n": 1.0},
}
"""From an a the model goes on with dx, or less likely with ny."""

VSCODE = """
const settings = JSON.parse(process.env.SETTINGS);
const registered = (exports.registered = { log: [] });
exports.Range = class {
  constructor(...at) {
    if (at.length === 2) at = at.flatMap(({ line, character }) => [line, character]);
    [this.startLine, this.startCharacter, this.endLine, this.endCharacter] = at;
    this.end = { line: this.endLine, character: this.endCharacter };
  }
};
exports.InlineCompletionItem = class {
  constructor(insertText, range) { Object.assign(this, { insertText, range }); }
};
exports.workspace = {
  getConfiguration: (section) => ({ get: (name) => settings[`${section}.${name}`] }),
  onDidChangeConfiguration: (listener) => (registered.change = listener),
};
exports.window = { createOutputChannel: () => ({ appendLine: (line) => registered.log.push(line) }) };
exports.commands = { registerCommand: (name, run) => (registered.commands = { [name]: run }) };
exports.languages = {
  registerInlineCompletionItemProvider: (_, provider) => (registered.provider = provider),
};
"""
"""What the extension uses of the editor."""

SCRIPT = """
const vscode = require("vscode");
require("./extension.cjs").activate({ subscriptions: [] });
const { provider, log } = vscode.registered;
const documentOf = (text) => {
  const lines = text.split("\\n");
  return {
    lineCount: lines.length,
    lineAt: (at) => ({ text: lines[at], range: new vscode.Range(at, 0, at, lines[at].length) }),
    getText: ({ startLine, startCharacter, endLine, endCharacter }) => {
      const offset = (line, character) => lines.slice(0, line).join("\\n").length + (line > 0) + character;
      return text.slice(offset(startLine, startCharacter), offset(endLine, endCharacter));
    },
  };
};
const token = { onCancellationRequested() {} };
(async () => {
  const found = [];
  for (const [text, line, character] of JSON.parse(process.env.CALLS)) {
    const at = { line, character };
    const items = await provider.provideInlineCompletionItems(documentOf(text), at, {}, token);
    found.push(items.map((one) => one.insertText));
    for (const { command } of process.env.ACCEPT ? items : []) {
      vscode.registered.commands[command.command](...command.arguments);
    }
  }
  console.log(JSON.stringify({ found, log }));
})();
"""

Complete = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[str]:
    """The address of the API with the real runtime and the model `table`."""
    settings = ApiSettings(data_dir=tmp_path_factory.mktemp("api"), redis_url=redis_url)
    with serving_real(settings, following("table", TABLE)) as http:
        yield str(http.base_url).rstrip("/")


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """A function that asks the provider at (text, line, character); returns what it inserts, and the log."""
    module = tmp_path / "vscode"
    module.mkdir()
    (module / "index.js").write_text(VSCODE)
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    defaults = MANIFEST["contributes"]["configuration"]["properties"]

    def call(*calls: tuple[str, int, int], **settings: object) -> dict[str, Any]:
        chosen = {f"nextchar.{name}": value for name, value in settings.items()}
        monkeypatch.setenv(
            "SETTINGS", json.dumps({name: one["default"] for name, one in defaults.items()} | chosen)
        )
        monkeypatch.setenv("CALLS", json.dumps(calls))
        answer: dict[str, Any] = json.loads(node("-e", SCRIPT, cwd=FOLDER))
        return answer

    return call


def test_line_is_completed_at_its_end_and_between_what_is_there(complete: Complete, url: str) -> None:
    at_ends = [("a", 0, 1), ("adx\na", 1, 1), ("adx\na\nadx", 1, 1), ("adx", 0, 2)]
    answer = complete(*at_ends, ("ay", 0, 1), ("adx\nay\nadx", 1, 1), server=url, model="table")
    assert answer == {"found": [["dx"], ["dx\n"], ["dx"], [], ["n"], ["n"]], "log": []}


def test_newest_model_is_used_without_a_setting(complete: Complete, url: str) -> None:
    assert complete(("a", 0, 1), server=url)["found"] == [["dx"]]


def test_service_that_does_not_run_is_in_the_log_and_inserts_nothing(complete: Complete) -> None:
    answer = complete(("a", 0, 1), ("ab", 0, 1), server="http://127.0.0.1:9", model="table")
    assert answer["found"] == [[], []] and "does not respond" in answer["log"][0]


def test_folder_has_what_the_extension_loads() -> None:
    assert (FOLDER / MANIFEST["main"]).is_file() and (FOLDER / "README.md").is_file()
    for name in ("client.js", "suggester.js", "event-queue.js"):  # links, which packing follows
        assert (FOLDER / name).resolve() == ROOT / "clients" / "js" / name
    assert MANIFEST["version"] == json.loads((ROOT / "clients/js/package.json").read_text())["version"]


def test_what_was_shown_and_accepted_is_reported_only_where_the_setting_says_so(
    complete: Complete, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [("a", 0, 1), ("ad", 0, 2), ("ay", 0, 1)]  # the second types along the first

    def counted() -> tuple[int, int, int]:
        total = httpx.get(f"{url}/v1/models/table/acceptance", timeout=60).json()["total"]
        return total["shown"], total["accepted"], total["characters_saved"]

    complete(*calls, server=url, model="table")
    assert counted() == (0, 0, 0)
    complete(*calls, server=url, model="table", report=True)
    assert counted() == (2, 0, 0)
    monkeypatch.setenv("ACCEPT", "yes")
    complete(calls[0], server=url, model="table", report=True)
    assert counted() == (3, 1, len("dx"))
