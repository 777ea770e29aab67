"""Tasks that say, run in a sandbox, what had to be loaded for them."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from numba.core.dispatcher import Dispatcher

from registry.sandboxes import tasks


def compose(progress: Callable[[float], None], **words: Any) -> list[str]:
    """Compose; return the modules that this imported, and the kernels that it compiled or loaded."""
    before = loaded()
    tasks.compose(**words, progress=progress)
    return sorted(loaded() - before)


def check(progress: Callable[[float], None], **words: Any) -> list[str]:
    """Check a patch; return likewise."""
    before = loaded()
    tasks.check_patch(**words, progress=progress)
    return sorted(loaded() - before)


def compose_range(progress: Callable[[float], None], **words: Any) -> list[str]:
    """Compose bytes of a weight file; return likewise."""
    before = loaded()
    compose = importlib.import_module("registry.sandboxes.ranges").compose_range
    compose(**words, progress=progress)
    return sorted(loaded() - before)


def torch(progress: Callable[[float], None]) -> list[str]:
    """Return what is loaded of the libraries for GPUs."""
    return sorted({"torch", "triton"} & set(sys.modules))


def loaded() -> set[str]:
    """Return the names of all modules, and of all kernels with the types that they are compiled for."""
    kernels = [module for name, module in sys.modules.items() if name.startswith("registry.breadcrumbs.kernels.")]
    compiled = {value for module in kernels for value in vars(module).values() if isinstance(value, Dispatcher)}
    return set(sys.modules) | {f"{one.__name__}{types}" for one in compiled for types in one.signatures}
