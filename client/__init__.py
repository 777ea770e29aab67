"""The client of the registry: `Client` with one method per endpoint, and the `crumb` command."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.api.client import Client

__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    """Load `Client` and `__version__` when they are first asked for, so that `import client` costs nothing."""
    if name == "Client":
        from client.api.client import Client

        return Client
    if name == "__version__":
        from importlib.metadata import version

        return version("breadcrumb-registry")
    raise AttributeError(f"module 'client' has no attribute {name!r}")
