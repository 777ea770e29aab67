"""Live models: loaded torch modules that take recipes in place, and what engines that serve and trainers need.

    from client.live import LiveModel
    live = LiveModel(model, "alice/llama@1.2.0")
    live.switch("1.3.0")
    live.set(alpha="0.25", weights={3: "0.5"})
    live.revert()

Names are loaded when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.live.diffing import diff_of
    from client.live.model import LiveModel
    from client.live.serving.changes import changes_between, changes_of, open_changes
    from client.live.training import PushPatch

__all__ = ["LiveModel", "PushPatch", "changes_between", "changes_of", "diff_of", "open_changes"]

_MODULES = {
    "LiveModel": "model",
    "PushPatch": "training",
    "changes_between": "serving.changes",
    "changes_of": "serving.changes",
    "diff_of": "diffing",
    "open_changes": "serving.changes",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'client.live' has no attribute {name!r}")
    from importlib import import_module

    from registry.extras import naming_extras

    with naming_extras():
        return getattr(import_module(f"client.live.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
