"""Compiles functions of arrays to machine code with numba.

`compiled` is for functions with machine code of their own, `inline_jit` for small ones that become part of
each function that calls them. Compiled functions call each other by address, so none is compiled twice. A
call takes some tens of nanoseconds, an inlined copy some tenths of a second of compiling.

Machine code is cached on disk for the next process: in the folder of `nextchar.models.kernels.compile_cache`,
in NUMBA_CACHE_DIR if a program does not set that folder, or else in `__pycache__`. If nothing can be written,
every process compiles, which takes seconds.

Numba invalidates its cache when the file of the compiled function changes, not when a file that it imports
changes. The folder of `nextchar.models.kernels.compile_cache` covers all files of this package. Without that
folder (benchmarks), touch the files of the compiled functions after an edit of a file that they import.

Every function has explicit signatures, so that processes that start at the same time write the same files.
"""

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llvmlite import binding, ir
from numba import config, njit
from numba.core.caching import FunctionCache, UserProvidedCacheLocator
from numba.core.cpu import CPUTargetOptions
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.core.typeinfer import register_dispatcher

from nextchar.models.kernels.compile_cache import is_of_fingerprint

log = logging.getLogger("nextchar.kernels")

_FOLDER = Path(__file__).resolve().parent

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "no_cfunc_wrapper": True,  # entry points for C, which are not called
    "fastmath": {"nsz"},  # one rounding per operation, in the order written: any processor gets the same
    "error_model": "numpy",  # division by zero raises nothing: loops that may raise are not vectorized
}

_INTERNAL: dict[str, Any] = _OPTIONS | {"no_cpython_wrapper": True}  # no conversion of Python's objects

inline_jit = njit(**_INTERNAL)
"""Inline a function into compiled ones. A call from Python would crash the process."""


def inline_variant(variant: str) -> Callable[[Any], Any]:
    """Return `inline_jit` for a function that differs from variant to variant.

    Numba names machine code by its function and how many functions the process had before. So two variants
    that two processes cached would have one name, and a process that loads both would run the first as both.
    """

    def decorate(function: Any) -> Any:
        function.__qualname__ += f"_{variant}"
        return inline_jit(function)

    return decorate


class _BorrowingOptions(CPUTargetOptions):
    """Numba's options for its CPU target, without its runtime, which counts references."""

    def finalize(self, flags: Any, options: dict[str, Any]) -> None:
        flags.nrt = False
        super().finalize(flags, options)  # type: ignore[no-untyped-call]


class _BorrowingTarget(CPUTarget):
    """Numba's CPU target with these options: functions of both call each other."""

    options = _BorrowingOptions
    target_context = cpu_target.target_context
    typing_context = cpu_target.typing_context


class _BorrowingDispatcher(CPUDispatcher):
    targetdescr = _BorrowingTarget("cpu")  # type: ignore[no-untyped-call]


def _borrowing(
    signatures: Sequence[Any] = (), *, cache: bool = False, **options: Any
) -> Callable[[Any], Any]:
    """Return a decorator like numba's njit, for functions that do not count references."""

    def decorate(function: Any) -> Any:
        dispatcher = _BorrowingDispatcher(function, targetoptions={**options, "nopython": True})
        if cache:
            dispatcher.enable_caching()
        with register_dispatcher(dispatcher):
            for signature in signatures:
                dispatcher.compile(signature)
        if signatures:
            dispatcher.disable_compile()
        return dispatcher

    return decorate


inline_borrowing = _borrowing(**_INTERNAL)
"""`inline_jit` for functions that use arrays of their caller, but neither make nor return any.

They do not count references, which takes some nanoseconds per array and call, as the counters are atomic. A
function that returns views of arrays may be called by such functions only.
"""


class FingerprintLocator(UserProvidedCacheLocator):
    """Finds machine code in a folder of a fingerprint, which covers all sources, wherever these are.

    Numba's own locators look in a folder per path of the source: a data folder that is used with another
    installation of the same version would be compiled again, though it is marked as compiled.
    """

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """Return a locator for a function of this package, if the folder is one of its fingerprint."""
        is_ours = Path(py_file).resolve().parent == _FOLDER and is_of_fingerprint(
            Path(os.environ.get("NUMBA_CACHE_DIR", ""))
        )
        return super().from_function(py_func, py_file) if is_ours else None  # type: ignore[no-untyped-call]

    @classmethod
    def get_suitable_cache_subpath(cls, _: str) -> str:
        """Return the same folder for all files."""
        return "kernels"


_LOCATORS = "CACHE_LOCATOR_CLASSES"  # numba's setting, NUMBA_CACHE_LOCATOR_CLASSES
_OTHERS = (
    "UserProvidedCacheLocator,InTreeCacheLocator,UserWideCacheLocator,IPythonCacheLocator,ZipCacheLocator"
)


@contextlib.contextmanager
def _with_fingerprint_locator() -> Iterator[None]:
    """Have numba try FingerprintLocator first, for functions that get a cache meanwhile.

    It reads its settings again whenever the environment changes, and other packages compile, too.
    """
    before = getattr(config, _LOCATORS)
    setattr(config, _LOCATORS, f"{__name__}.{FingerprintLocator.__name__},{before or _OTHERS}")
    try:
        yield
    finally:
        setattr(config, _LOCATORS, before)


def compiled(
    *signatures: Any, variant: str = "", is_internal: bool = False, is_borrowing: bool = False
) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function for these signatures, or loads its cached machine code.

    Args:
        signatures: numba's.
        variant: what the code depends on besides its source; each variant has its own machine code.
        is_internal: only compiled functions call it, which compiles faster. A call from Python would crash
            the process.
        is_borrowing: it neither makes nor returns arrays; see `inline_borrowing`.
    """
    options = _INTERNAL if is_internal else _OPTIONS
    compiler = partial(_borrowing if is_borrowing else njit, list(signatures), **options)

    def compile_(function: Any) -> Any:
        function.__qualname__ += f"_{variant}" if variant else ""
        dispatcher = _cached(function, compiler) or compiler()(function)
        _call_by_address(dispatcher)
        return dispatcher

    return compile_


def _cached(function: Any, compiler: Callable[..., Any]) -> Any:
    """Load a function from the cache, or compile and save it; return None if there is no usable cache.

    A folder that is not writable or a damaged file must not stop the process. Damaged files are replaced.
    """

    def cached() -> Any:
        with _with_fingerprint_locator():
            return compiler(cache=True)(function)

    try:
        return cached()
    except Exception as error:  # noqa: BLE001 -- reading a damaged file may raise anything
        with contextlib.suppress(Exception):
            # Raises where nothing can be written.
            with _with_fingerprint_locator():
                FunctionCache(function).flush()  # type: ignore[no-untyped-call]
            log.warning(
                "the compiled code of %s.%s in the cache is damaged; compiling it again: %r",
                function.__module__,
                function.__qualname__,
                error,
            )
            return cached()
    return None


def _call_by_address(dispatcher: Any) -> None:
    """Have functions that are compiled from now on call this one, instead of having a copy of it.

    The callers' code is cached, so the name by which they find it must be the same in every process, and with
    every variant.
    """
    function, context = dispatcher.py_func, dispatcher.targetctx
    for n, overload in enumerate(dispatcher.overloads.values()):
        callee = copy.copy(overload.fndesc)
        callee.mangled_name = f"nextchar.{function.__module__}.{function.__name__}.{n}"
        address = overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name)
        binding.add_symbol(callee.mangled_name, address)
        context.remove_user_function(overload.entry_point)
        context.insert_user_function(overload.entry_point, callee)


def declare_function(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return an external function or LLVM intrinsic of this name and type, declared once per module."""
    declared = builder.module.globals.get(name)
    return declared or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
