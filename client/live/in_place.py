"""In-place scoring: a model that is loaded once and takes one candidate after another, scored by a Python function.

A file of a person's own names the two functions:

    def load(folder): return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    def score(model): return accuracy(model)
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InvalidRequest
from registry.files.hashing import hash_file


@dataclass(frozen=True)
class InPlace:
    """How a model in memory is scored.

    Args:
        load: Loads a model from a folder, in the dtypes of its files; called once, with the base.
        score: Returns the score of the model, whose weights are another candidate's each time.
        name: What scores of later runs are kept under; they are not kept when empty.
    """

    load: Callable[[Path], Any]
    score: Callable[[Any], float]
    name: tuple[str, ...] = ()


def read_functions(file: Path) -> InPlace:
    """Return the functions of a person's Python file, which is run for that.

    Raises:
        InvalidRequest: There is no such file, or it does not define both.
    """
    if not file.is_file():
        raise InvalidRequest(f"There is no file {file}; write one that defines load(folder) and score(model).")
    spec = importlib.util.spec_from_file_location(f"in_place_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{file} is not a Python file; its name ends in .py.", field="in_place")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {name: getattr(module, name, None) for name in ("load", "score")}
    for name, function in found.items():
        if not callable(function):
            raise InvalidRequest(f"{file} does not define {name}; it needs load(folder) and score(model).")
    return InPlace(**found, name=("in place", file.name, hash_file(file)))  # type: ignore[arg-type]
