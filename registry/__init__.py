"""The breadcrumb registry's server side and its science."""

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the installed version, which is read once."""
    return metadata.version("breadcrumb-registry")
