"""From the fields of a form to the body that the API takes for the same."""

import types
from typing import Any, TypeVar, Union, get_args, get_origin

from fastapi import Request
from pydantic import BaseModel, ValidationError

from registry.errors import InvalidRequest

Shape = TypeVar("Shape", bound=BaseModel)


def fields(request: Request) -> dict[str, list[str]]:
    """Return all fields of the form that was posted."""
    found: dict[str, list[str]] = request.state.form
    return found


def field(request: Request, name: str) -> str:
    """Return one field of the form that was posted, or an empty string."""
    return fields(request).get(name, [""])[-1].strip()


def read(shape: type[Shape], request: Request, **given: Any) -> Shape:
    """Return the body that a form stands for.

    A field that was left empty is as if it were not there; a checkbox is `on` or not there.

    Args:
        shape: The body.
        request: With the form, whose fields are called as the body's are.
        given: Fields of the body that are no fields of the form.

    Raises:
        InvalidRequest: names the field and the rule.
    """
    values: dict[str, Any] = {}
    for name, info in shape.model_fields.items():
        sent = [value.strip() for value in fields(request).get(name, []) if value.strip()]
        if sent:
            values[name] = sent if is_list(info.annotation) else sent[-1]
    try:
        return shape.model_validate({**values, **given})
    except ValidationError as why:
        first = why.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{name}: {first['msg']} (given: {str(first['input'])[:80]!r}).", field=name) from None


def is_list(annotation: Any) -> bool:
    """Say whether a field of a body is a list, perhaps of nothing."""
    if get_origin(annotation) in (Union, types.UnionType):
        return any(is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is list
