"""The CPU kernels as machine code: compiled by numba once for this processor, and from then on loaded without it.

    cpu/MODULE.py --numba, the first time--> a file in a cache --llvmlite--> called through ctypes

To import numba and to prepare it takes a process half a second, longer than all else that a small `crumb apply` does;
to load what is compiled takes some milliseconds. Kernels release the interpreter's lock.
"""

import ctypes
import hashlib
import json
import os
import platform
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

from registry.breadcrumbs.kernels.cpu.target import Compiled, features

SOURCES = Path(__file__).parent / "cpu"
"""Where the sources of the kernels are; of other modules of this package they import the constants alone."""

SETTINGS = (
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_ENABLE_AVX",
    "NUMBA_OPT",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_SLP_VECTORIZE",
    "NUMBA_BOUNDSCHECK",
    "NUMBA_DEBUGINFO",
)
"""The environment variables that change what numba compiles."""

NUMBERS = {"int64": ctypes.c_int64, "float64": ctypes.c_double, "uint32": ctypes.c_uint32}
"""What may be given to a kernel, and returned by it, beside arrays."""


class Kernel:
    """A kernel, compiled or loaded when it is first called.

    Call it with numbers and arrays as its source describes them; arrays are contiguous, of exactly the dtypes and
    numbers of dimensions that are named there. It returns a number, a tuple of numbers, or None.

    Args:
        module: The module of `kernels/cpu` that has its source.
        name: Its name there.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self._function: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether it can be called at once."""
        return self._function is not None

    def __call__(self, *arguments: Any) -> Any:
        """Run it.

        Raises:
            TypeError: An argument is not of the type that the kernel is compiled for.
        """
        function = self._function
        if function is None:
            with self._lock:
                function = self._function = self._function or self._load()
        return function(*arguments)

    def _load(self) -> Callable[..., Any]:
        places = [folder / f"{self.module}.{self.name}" for folder in _folders()]
        for place in places:
            if compiled := _read(place):
                return _callable(self.name, compiled)
        from registry.breadcrumbs.kernels.cpu.compiling import compile_kernel

        compiled = compile_kernel(self.module, self.name)
        for place in places:
            with suppress(OSError):  # no right to write there, or no room
                _write(place, compiled)
                break
        return _callable(self.name, compiled)


@cache
def _folders() -> list[Path]:
    """Return where the machine code of these sources, of this compiler and for this processor is kept.

    That is beside the sources, or in the user's cache where those may not be written to.
    """
    known = hashlib.sha256()
    for part in _identity():
        known.update(len(part).to_bytes(8, "little") + part)
    name = f"compiled-{known.hexdigest()[:16]}"
    folders = [SOURCES / "__pycache__" / name]
    with suppress(RuntimeError):  # the user has no home
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        own = (given if given.is_absolute() else Path.home() / ".cache") / "breadcrumb-registry/kernels" / name
        if _is_own(own):
            folders.append(own)
    return folders


def _is_own(folder: Path) -> bool:
    """Say whether nobody else can have put code into a folder, which is to be run; it need not be there yet."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return os.name == "nt" or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)


def _identity() -> Iterator[bytes]:
    """Yield all that decides what the machine code is."""
    for source in [SOURCES.with_name("constants.py"), *sorted(SOURCES.glob("*.py"))]:
        yield source.read_bytes()
    numba = find_spec("numba")
    with suppress(OSError):
        yield (Path(str(numba.origin)).parent / "_version.py").read_bytes() if numba else b""
    machine = binding.get_host_cpu_name(), sorted(features()), sys.platform, platform.machine()
    yield f"{llvmlite.__version__} {machine} {[os.environ.get(name) for name in SETTINGS]}".encode()


def _read(place: Path) -> Compiled | None:
    """Return a compiled kernel from its file; None if there is none that is whole."""
    try:
        checksum, _, rest = place.read_bytes().partition(b"\n")
        if int(checksum, 16) != zlib.crc32(rest):
            return None
        head, _, code = rest.partition(b"\n")
        found = json.loads(head)
        arguments = tuple((dtype, dimensions) for dtype, dimensions in found["arguments"])
        return Compiled(found["symbol"], arguments, tuple(found["returns"]), code)
    except (OSError, ValueError, KeyError):
        return None


def _write(place: Path, compiled: Compiled) -> None:
    """Write a compiled kernel's file, which appears at once."""
    head = asdict(compiled)
    code = head.pop("object")
    rest = json.dumps(head).encode() + b"\n" + code
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    written = place.with_name(f".{place.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        written.write_bytes(b"%08x\n" % zlib.crc32(rest) + rest)
        written.replace(place)
    finally:
        written.unlink(missing_ok=True)


def _callable(name: str, compiled: Compiled) -> Callable[..., Any]:
    """Return a function that calls the machine code, by numba's convention: results, exceptions, then arguments."""
    results: list[tuple[str, Any]] = [(f"number{at}", NUMBERS[dtype]) for at, dtype in enumerate(compiled.returns)]
    results = results or [("nothing", ctypes.c_void_p)]

    class Returned(ctypes.Structure):
        _fields_ = results

    taken: list[Any] = [ctypes.POINTER(Returned), ctypes.POINTER(ctypes.c_void_p)]
    kinds = [(np.dtype(dtype), dimensions) for dtype, dimensions in compiled.arguments]
    for dtype, dimensions in compiled.arguments:
        taken += [ctypes.c_void_p, *[ctypes.c_int64] * dimensions] if dimensions else [NUMBERS[dtype]]
    run = ctypes.CFUNCTYPE(ctypes.c_int32, *taken)(_address(compiled))

    def call(*arguments: Any) -> Any:
        returned, raised, given = Returned(), ctypes.c_void_p(), []
        for (dtype, dimensions), argument in zip(kinds, arguments, strict=True):
            if not dimensions:
                given.append(argument)
                continue
            if argument.dtype != dtype or argument.ndim != dimensions or not argument.flags.c_contiguous:
                raise TypeError(f"{name} takes contiguous {dtype} of {dimensions} dimensions here.")
            given.append(argument.ctypes.data)
            given += argument.shape
        if run(ctypes.byref(returned), ctypes.byref(raised), *given):
            raise RuntimeError(f"{name} failed.")
        found = tuple(getattr(returned, field) for field, _ in results)
        return found if len(found) > 1 else found[0]

    return call


@cache
def _prepared() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple()


_ENGINES: list[Any] = []
"""What owns the memory of the machine code, which stays as long as the process."""

_LINKING = threading.Lock()


def _address(compiled: Compiled) -> int:
    """Load machine code into memory that may be executed; return where the kernel begins."""
    with _LINKING:
        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _prepared().create_target_machine())
        engine.add_object_file(binding.ObjectFileRef.from_data(compiled.object))
        engine.finalize_object()
        _ENGINES.append(engine)
        if not (address := int(engine.get_function_address(compiled.symbol))):
            raise RuntimeError(f"There is no {compiled.symbol} in its machine code.")
        return address
