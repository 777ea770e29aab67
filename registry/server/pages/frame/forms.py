"""Form fields: read one by one, or as the body that the API takes for the same."""

import re
import types
from typing import Any, TypeVar, Union, get_args, get_origin

from fastapi import Request
from pydantic import BaseModel, ValidationError

from registry.errors import InvalidRequest, NotFound
from registry.files.names import NAME

Shape = TypeVar("Shape", bound=BaseModel)


def fields(request: Request) -> dict[str, list[str]]:
    """Return all fields of the form that was posted."""
    form: dict[str, list[str]] = request.state.form
    return form


def field(request: Request, name: str) -> str:
    """Return one field of the form that was posted, or an empty string."""
    return fields(request).get(name, [""])[-1].strip()


def user_name(request: Request) -> str:
    """Return the user that a form about a member names.

    Raises:
        NotFound: The field is not the name of any possible user.
    """
    name = field(request, "user")
    if not re.fullmatch(NAME, name):
        raise NotFound(f"There is no user {name[:100]!r}; names are of a-z, 0-9, '.', '_' and '-'.")
    return name


def read(shape: type[Shape], request: Request, **given: Any) -> Shape:
    """Return a posted form as a body of the API.

    Empty fields are ignored; a checkbox is `on` or not sent.

    Args:
        shape: The class of the body.
        request: The request with the form, whose fields have the names of the body's.
        given: Fields of the body that the form does not have.

    Raises:
        InvalidRequest: A field is not valid; the message names the field and the rule.
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
        if not first["loc"]:  # it is about several fields together, and says which
            said = str(first["msg"]).removeprefix("Value error, ")
            raise InvalidRequest(f"{said[:1].upper()}{said[1:]}.") from None
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{name}: {first['msg']} (given: {str(first['input'])[:80]!r}).", field=name) from None


def is_list(annotation: Any) -> bool:
    """Return whether a field of a body is a list, or optionally one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return any(is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is list
