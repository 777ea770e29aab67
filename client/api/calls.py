"""Calls: one call, one answer of a known shape, and pages that follow each other; for every endpoint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from client.api.http import Connection
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.errors import InvalidRequest, Unavailable

T = TypeVar("T", bound=BaseModel)
Where = Sequence[tuple[str, str]]
"""Factors of a weight by tensor: (glob of names, decimal); the first that matches counts."""
Item = tuple[int, str] | tuple[int, str, int | None] | tuple[int, str, int | None, Where]
"""A patch of a recipe: its number, its weight as a decimal, its revision (the newest when None or left out), and its
weights by tensor."""
Choice = tuple[int, int | None]
"""A patch's number, and its revision (the newest when None)."""

PAGE = 100
RULES = {  # patterns of registry.schemas, in words
    "task": "write it like math or code/python, in up to 64 lowercase letters, digits, dots, dashes and slashes",
    "name": "write NS/NAME in lowercase letters, digits, dots and dashes",
    "source": "write a base at a Hub like hf://org/name or hf://org/name@revision",
    "title": "it holds a NUL character",
    "message": "it holds a NUL character",
    "license": "write it as the Hub does, like apache-2.0 or cc-by-4.0",
    "version": "write three numbers like 1.2.0, or 1.2.0-rc.1",
    "address": "write an e-mail address like ada@example.org",
    "link": "give the whole link that was mailed to you",
    "required_evaluations": "write each as dataset:metric",
}


class Calls:
    """One connection, and the calls that go over it."""

    connection: Connection

    @property
    def url(self) -> str:
        """The registry's address."""
        return self.connection.url

    def _call(
        self,
        shape: type[T],
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: BaseModel | None = None,
        only_given: bool = False,
        timeout: float | None = None,
    ) -> T:
        path = f"/api/v1{path}"
        document = None if body is None else body.model_dump(mode="json", exclude_unset=only_given)
        answer = self.connection.json(method, path, params=params, body=document, timeout=timeout)
        return self._read(shape, answer, f"{method} {path}")

    def _list(self, shape: type[T], path: str, *, params: Mapping[str, Any] | None = None) -> list[T]:
        path = f"/api/v1{path}"
        answer = self.connection.json("GET", path, params=params)
        try:
            return TypeAdapter(list[shape]).validate_json(answer)  # type: ignore[valid-type]
        except ValidationError as why:
            raise self._strange(f"GET {path}") from why

    def _pages(
        self, shape: type[Any], path: str, cursor: str, limit: int | None = None, start: Any = None, **params: Any
    ) -> Iterator[Any]:
        """Yield the items of the pages of a list.

        Args:
            shape: The shape of a page, with `items` and `next`.
            path: The path of the list.
            cursor: Name of the parameter that says where a page begins: `before` or `after`.
            limit: Most items; None for all.
            start: Where the first page begins.
            params: The other parameters.
        """
        seen: set[Any] = set()
        while limit is None or limit > 0:
            count = PAGE if limit is None else min(limit, PAGE)
            page = self._call(shape, "GET", path, params={**params, cursor: start, "limit": count})
            yield from page.items if limit is None else page.items[:limit]
            limit = None if limit is None else limit - len(page.items)
            if page.next is None or page.next in seen:
                return
            seen.add(page.next)
            start = page.next

    def _send(self, method: str, path: str, body: BaseModel | None = None) -> None:
        document = None if body is None else body.model_dump(mode="json")
        self.connection.json(method, f"/api/v1{path}", body=document)

    def _raw(self, path: str) -> bytes:
        return self.connection.json("GET", f"/api/v1{path}")

    def _read(self, shape: type[T], answer: bytes, call: str) -> T:
        try:
            return shape.model_validate_json(answer)
        except ValidationError as why:
            raise self._strange(call) from why

    def _strange(self, call: str) -> Unavailable:
        return Unavailable(
            f"The answer from {self.url} is not one that this crumb understands ({call}); check that the address is "
            "that of a registry, or upgrade crumb."
        )


def valid(shape: type[T], **values: Any) -> T:
    """Return the body of a request.

    Raises:
        InvalidRequest: A value breaks a rule; the message names the field and the rule.
    """
    try:
        return shape(**values)
    except ValidationError as why:
        first = why.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        rule = RULES.get(field, first["msg"]) if first["type"] == "string_pattern_mismatch" else first["msg"]
        raise InvalidRequest(f"{field}: {rule} (given: {str(first['input'])[:80]!r}).", field=field) from why


def part(text: str) -> str:
    """Return one part of a path, quoted.

    Raises:
        InvalidRequest: The text is empty, `.` or `..`.
    """
    if text in ("", ".", ".."):
        raise InvalidRequest(f"{text!r} is not a name.")
    return quote(text, safe="")


def name_of(model: str) -> str:
    """Return the name of a model, NS/NAME.

    Raises:
        InvalidRequest: The text is not such a name.
    """
    from client.terminal.addresses import check_model

    return check_model(model)


def patch_path(model: str, number: int, revision: int | None = None) -> str:
    """Return the path of a patch, at its newest revision when None is given."""
    dot = "" if revision is None else f".{revision:d}"
    return f"/models/{name_of(model)}/patches/{number:d}{dot}"


def alpha_of(text: str) -> str:
    """Return an alpha as a request has it: a normalised decimal, or `auto`.

    Raises:
        InvalidRequest: The text is neither.
    """
    return text if text == AUTO else normalise_decimal(text, "alpha")


def recipe_items(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the patches of a recipe as a request has them.

    Raises:
        InvalidRequest: A weight or factor is not a decimal.
    """
    return [_item(*item) for item in items]


def _item(number: int, weight: str, revision: int | None = None, where: Where = ()) -> dict[str, Any]:
    return {
        "number": number,
        "weight": normalise_decimal(weight, "weight"),
        "revision": revision,
        "where": [(glob, normalise_decimal(factor, "where")) for glob, factor in where],
    }
