"""Tasks that say, run in a sandbox, what had to be loaded for them."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from registry.breadcrumbs.kernels.machine_code import Kernel
from registry.sandboxes import tasks


def compose(progress: Callable[[float], None], **words: Any) -> list[str]:
    """Compose; return the modules that this imported, and the kernels that it loaded."""
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
    """Return the names of all modules, and of all kernels that are loaded."""
    kernels = [module for name, module in sys.modules.items() if name.startswith("registry.breadcrumbs.kernels.")]
    found = {value for module in kernels for value in vars(module).values() if isinstance(value, Kernel)}
    return set(sys.modules) | {f"{kernel.module}.{kernel.name}" for kernel in found if kernel.loaded}
