"""Builds the one package that people install.

The service's packages are top-level folders of the repository and import one another by these names.
Installed under such names they would collide with other programs' `app` and `models`. A build therefore
places them in `nextchar` and rewrites their imports: `from models.text import masks` becomes
`from nextchar.models.text import masks`. An editable install leaves the checkout as it is.
"""

import ast
import re
import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

CLIENT = "clients/python/nextchar"
SERVICE = ("app", "launcher", "models", "store", "worker")


def with_package_names(source: str) -> str:
    """Return the source with `nextchar.` before the service's packages in its import statements."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(_is_service(name.name) for name in node.names):
            raise ValueError(
                f"line {node.lineno}: write `from package import module`; a build can rewrite that"
            )
        if isinstance(node, ast.ImportFrom) and not node.level and _is_service(node.module or ""):
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = re.sub(r"\bfrom +", "from nextchar.", line, count=1)
    return "".join(lines)


def _is_service(module: str) -> bool:
    return module.partition(".")[0] in SERVICE


class BuildPackage(build_py):
    """Copies the packages, and rewrites their imports unless the install is editable."""

    def build_module(self, module, module_file, package):  # type: ignore[no-untyped-def]
        """Copy one module; return where it is and whether it was copied, as setuptools wants it."""
        outfile, copied = super().build_module(module, module_file, package)
        if not self.editable_mode:
            target = Path(outfile)
            target.write_text(with_package_names(target.read_text(encoding="utf-8")), encoding="utf-8")
        return outfile, copied


def layout(*, is_editable: bool) -> tuple[list[str], dict[str, str]]:
    """Return all packages, folders of data included, and where the top ones are found."""
    prefix = "" if is_editable else "nextchar."
    folders = {"nextchar": CLIENT} | {prefix + name: name for name in SERVICE}
    if not is_editable:  # files that the API serves
        folders["nextchar.clients.js"] = "clients/js"
    packages = []
    for package, folder in folders.items():
        inner = find_namespace_packages(folder, exclude=["*__pycache__*"])
        packages += [package, *(f"{package}.{name}" for name in inner)]
    return packages, folders


packages, folders = layout(is_editable="editable_wheel" in sys.argv)
setup(
    packages=packages,
    package_dir=folders,
    package_data={"": ["*"]},
    cmdclass={"build_py": BuildPackage},
)
