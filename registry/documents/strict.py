"""Strict JSON: parse strangers' JSON into dataclasses with exactly the annotated fields and types."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints


def parse(raw: bytes) -> Any:
    """Parse strict JSON: UTF-8, no key twice in one object, no NaN.

    Raises:
        ValueError: The bytes are not strict JSON, or are nested too deeply.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return table


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def build(kind: Any, value: Any, readers: Mapping[Any, Callable[[Any], Any]], where: str = "") -> Any:
    """Make a value of an annotated type from parsed JSON.

    Args:
        kind: A dataclass, `tuple[X, ...]`, `X | None`, str, int, float or bool, or a type that has a reader.
        value: The parsed JSON.
        readers: Functions that make types which JSON does not have.
        where: The name of the value in messages.

    Raises:
        ValueError: The value is not of this type; the message says where.
    """
    if reader := readers.get(kind):
        return reader(value)
    if is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise ValueError(f"{where or 'it'} has not exactly the fields {', '.join(sorted(hints))}")
        return kind(**{name: build(hints[name], value[name], readers, f"{where}.{name}".lstrip(".")) for name in hints})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        inner = get_args(kind)[0]
        return tuple(build(inner, one, readers, f"{where}[{index}]") for index, one in enumerate(value))
    if get_origin(kind) is UnionType:
        (inner,) = (one for one in get_args(kind) if one is not NoneType)
        return None if value is None else build(inner, value, readers, where)
    if type(value) is not kind:
        raise ValueError(f"{where} is not of type {kind.__name__}")
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    every = get_type_hints(kind)
    return {field.name: every[field.name] for field in fields(kind)}
