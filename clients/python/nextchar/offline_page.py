"""One HTML file with a packed model, the runtime and the browser client, which works from a disk, too."""

import base64
import json
import re
from pathlib import Path

_JS = Path(__file__).parent / "js"
_IMPORT = re.compile(r'(from |import |import\()"\./(?:nextchar/)?([a-z-]+\.js)"')


def offline_page(model: bytes) -> str:
    """Return the page `recipes/offline/index.html` of the browser client with everything in it."""
    addresses = {
        f"nextchar/{name}": _data_url(
            _without_addresses((_JS / name).read_text()).encode(), "text/javascript"
        )
        for name in sorted(_reached("nextchar.js"))
    }
    page = _with_bare_names((_JS / "recipes" / "offline" / "index.html").read_text())
    script = '<script type="module">'
    imports = json.dumps({"imports": addresses})
    page = page.replace(script, f'<script type="importmap">{imports}</script>\n    {script}')
    return page.replace("./model.nextchar", _data_url(model, "application/octet-stream"))


def _reached(entry: str) -> set[str]:
    """Return the modules that a module imports, now or later, directly or not, and its own name."""
    found, pending = set[str](), {entry}
    while pending:
        found.add(name := pending.pop())
        pending |= {name for _, name in _IMPORT.findall((_JS / name).read_text())} - found
    return found


def _without_addresses(module: str) -> str:
    """Return a module that names others as the import map does, and has the worker and the runtime in it."""
    module = _with_bare_names(module)
    for name, kind in (("offline-worker.js", "text/javascript"), ("nextchar.wasm", "application/wasm")):
        address = json.dumps(_data_url((_JS / name).read_bytes(), kind))
        module = module.replace(f'new URL("./{name}", import.meta.url)', address)
    return module


def _with_bare_names(source: str) -> str:
    """Return a source that imports `nextchar/client.js` instead of `./client.js`, as an import map has it."""
    return _IMPORT.sub(r'\1"nextchar/\2"', source)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
