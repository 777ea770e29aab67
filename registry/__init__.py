"""The breadcrumb registry's server side and its science."""

from importlib import metadata


def version() -> str:
    """Return the installed version."""
    return metadata.version("breadcrumb-registry")
