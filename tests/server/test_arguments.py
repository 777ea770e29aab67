"""Arguments of routes that only read: the kinds that are read, and those that a route is refused for."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import RequestValidationError

from registry.server.arguments import Arguments


async def double(number: Annotated[int, Path(ge=1)]) -> int:
    return 2 * number


async def wait(request: Request) -> None:
    import asyncio

    await asyncio.sleep(0)


def function(
    request: Request,
    response: Response,
    twice: Annotated[int, Depends(double)],
    name: Annotated[str, Path(alias="user")],
    word: Annotated[list[str] | None, Query(max_length=2)] = None,
    limit: int = 100,
) -> None: ...


def read(call: Any, query: str = "", **path: str) -> dict[str, Any]:
    """Return the arguments of a function for a request."""
    scope = {"type": "http", "query_string": query.encode(), "path_params": path, "headers": [], "app": FastAPI()}
    return Arguments(get_dependant(path="/{number}/{user}", call=call)).read(Request(scope), Response())


def test_path_query_request_and_dependencies_are_read() -> None:
    found = read(function, number="4", user="bob")
    assert {name: found[name] for name in ("twice", "name", "word", "limit")} == {
        "twice": 8,
        "name": "bob",
        "word": None,
        "limit": 100,
    }
    assert isinstance(found["request"], Request) and isinstance(found["response"], Response)
    found = read(function, "word=a&word=b&limit=7", number="4", user="bob")
    assert (found["word"], found["limit"]) == (["a", "b"], 7)


def test_all_that_is_wrong_is_named_where_it_stands() -> None:
    with pytest.raises(RequestValidationError) as error:
        read(function, "word=a&word=b&word=c&limit=x", number="0", user="bob")
    assert [one["loc"] for one in error.value.errors()] == [("path", "number"), ("query", "word"), ("query", "limit")]


def test_other_kinds_are_refused() -> None:
    def reads_header(agent: Annotated[str, Header()]) -> None: ...

    def waits(nothing: Annotated[None, Depends(wait)]) -> None: ...

    with pytest.raises(AssertionError, match="header_params"):
        read(reads_header)
    with pytest.raises(TypeError, match="wait waits for something"):
        read(waits)
