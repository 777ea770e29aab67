"""Arguments: what the function of a route is called with, read from a request by the thread that calls it.

FastAPI would do this in the event loop, as a coroutine for every dependency, and look for headers and cookies that
nobody asked for: a sixth of the time of a small read. Here are the kinds of arguments that routes that only read have:
what the path and the query hold, checked as FastAPI checks it, the request, headers to add to the answer, and what
async functions without an `await` return for those.
"""

from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError

OTHERS = (
    "header_params",
    "cookie_params",
    "body_params",
    "websocket_param_name",
    "http_connection_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
)
Found = tuple[dict[str, Any], list[Any]]  # arguments, and what is wrong with the request


class Arguments:
    """The arguments of a function.

    Args:
        function: What FastAPI found that the function needs.
    """

    def __init__(self, function: Dependant) -> None:
        others = [kind for kind in OTHERS if getattr(function, kind)]
        assert not others, f"{function.call}: {others}"
        self.function = function
        self.inner = [(one.name, one.call, Arguments(one)) for one in function.dependencies]

    def read(self, request: Request, response: Response | None) -> dict[str, Any]:
        """Return the arguments.

        Args:
            request: The request.
            response: The response that the function may add headers to; None unless it `adds_headers`.

        Raises:
            RequestValidationError: Something in the path or the query is missing or not valid.
        """
        values, errors = self.find(request, response)
        if errors:
            raise RequestValidationError(errors)
        return values

    @property
    def adds_headers(self) -> bool:
        """Whether the function takes a response, to add headers to it."""
        return self.function.response_param_name is not None

    @cached_property
    def without_query(self) -> Found:
        """What a request without a query gives."""
        return request_params_to_args(self.function.query_params, {})

    def find(self, request: Request, response: Response | None) -> Found:
        """Return the arguments, and what is wrong with the request."""
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for name, function, needed in self.inner:
            found, wrong = needed.find(request, response)
            errors += wrong
            if not wrong and name is not None and function is not None:
                values[name] = finish(function, found)
        for field in self.function.path_params:
            values[field.name], wrong = field.validate(
                request.path_params[field.alias], values, loc=("path", field.alias)
            )
            errors += wrong
        if self.function.query_params:
            asked = bool(request.scope["query_string"])
            found, wrong = (
                request_params_to_args(self.function.query_params, request.query_params)
                if asked
                else self.without_query
            )
            values |= found
            errors += wrong
        if self.function.request_param_name is not None:
            values[self.function.request_param_name] = request
        if self.function.response_param_name is not None:
            values[self.function.response_param_name] = response
        return values, errors


def finish(function: Callable[..., Coroutine[Any, Any, Any]], values: dict[str, Any]) -> Any:
    """Return what an async function returns that waits for nothing."""
    coroutine = function(**values)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise TypeError(f"{function.__name__} waits for something")
