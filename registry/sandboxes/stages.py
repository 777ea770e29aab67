"""Stages of a task: what a disposable process did when. It reaches no network, so its worker makes spans of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MOST = 100  # stages of a task that are told, and that a worker takes
MOST_TEXT = 100  # characters of a name or an attribute
# Its name, when it began and ended in nanoseconds since 1970, and what is known of it.
Stage = tuple[str, int, int, dict[str, str]]
_ended: list[Stage] = []


@contextmanager
def stage(name: str) -> Iterator[dict[str, str]]:
    """Note what is done inside; yield a place for what is known of it."""
    known: dict[str, str] = {}
    began = time.time_ns()
    try:
        yield known
    finally:
        if len(_ended) < MOST:
            _ended.append((name, began, time.time_ns(), known))


def take() -> list[Stage]:
    """Return the stages that have ended since the last call."""
    taken = _ended[:]
    _ended.clear()
    return taken


def sound(told: Any) -> list[Stage]:
    """Return the stages that a process told of, as far as they are such: it reads strangers' bytes."""
    stages: list[Stage] = []
    for one in told[:MOST] if isinstance(told, list) else []:
        match one:
            case [str(name), int(began), int(ended), dict(known)] if 0 <= began <= ended < 2**63:
                pairs = [(key, text) for key, text in list(known.items())[:MOST] if isinstance(text, str)]
                texts = {key[:MOST_TEXT]: text[:MOST_TEXT] for key, text in pairs}
                stages.append((name[:MOST_TEXT], began, ended, texts))
    return stages
