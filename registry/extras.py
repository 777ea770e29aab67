"""Extras: which of breadcrumb-registry's optional dependencies brings a library that is not installed.

`pip install breadcrumb-registry` is the client alone. What computes, serves or signs needs libraries of an extra, and
imports them where it needs them; a command or a caller that lacks one gets `MissingExtra`, which names the extra.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import MissingExtra

EXTRAS = {  # import name -> the smallest extra that brings it; extras bring those that they build on
    "numba": "local",
    "numpy": "local",
    "llvmlite": "local",
    "torch": "gpu",
    "triton": "gpu",
    "cuda": "cuda",
    "alembic": "server",
    "authlib": "server",
    "boto3": "server",
    "botocore": "server",
    "fastapi": "server",
    "jinja2": "server",
    "joserfc": "server",
    "limits": "server",
    "markupsafe": "server",
    "nh3": "server",
    "prometheus_client": "server",
    "psycopg": "server",
    "pydantic_settings": "server",
    "sqlalchemy": "server",
    "starlette": "server",
    "structlog": "server",
    "uvicorn": "server",
    "cryptography": "sign",
    "model_signing": "sign",
    "OpenSSL": "sign",
    "optuna": "optuna",
    "opentelemetry": "otel",
    "ray": "ray",
    "sklearn": "demo",
    "transformers": "demo",
}


@contextmanager
def naming_extras() -> Iterator[None]:
    """Raise MissingExtra in place of ModuleNotFoundError where an extra brings the module.

    Raises:
        MissingExtra: A library of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as why:
        library = (why.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise _missing(library) from why


def require_extra(extra: str) -> None:
    """Check that the libraries of an extra are installed, before anything is done that would be in vain.

    Raises:
        MissingExtra: A library of the extra is not installed.
    """
    for library in sorted(name for name, found in EXTRAS.items() if found == extra):
        if importlib.util.find_spec(library) is None:
            raise _missing(library)


def missing_extras() -> set[str]:
    """Return the extras of which a library is not installed; nothing is imported."""
    return {extra for library, extra in EXTRAS.items() if importlib.util.find_spec(library) is None}


def _missing(library: str) -> MissingExtra:
    extra = EXTRAS[library]
    return MissingExtra(
        f"This needs {library}, which is not installed; run `pip install 'breadcrumb-registry[{extra}]'`."
    )
