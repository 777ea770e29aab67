"""The target of the compiler: the processor that machine code is for, and what comes out."""

import os
import platform
from dataclasses import dataclass
from functools import cache

from llvmlite import binding


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel.

    Args:
        symbol: Its name in the object.
        arguments: Of each argument the dtype, and the number of dimensions: 0 for a number.
        returns: The dtypes of the numbers that it returns.
        object: What a compiler writes: ELF, Mach-O or COFF.
    """

    symbol: str
    arguments: tuple[tuple[str, int], ...]
    returns: tuple[str, ...]
    object: bytes


@cache
def features() -> frozenset[str]:
    """Return the features of the processor that code is generated for, as LLVM names them: `+avx2` and the like."""
    given = os.environ.get("NUMBA_CPU_FEATURES")
    if given is None:
        given = "" if os.environ.get("NUMBA_CPU_NAME") == "generic" else binding.get_host_cpu_features().flatten()
    return frozenset(given.split(","))


@cache
def is_x86() -> bool:
    """Say whether the processor is one of Intel's or AMD's."""
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")
