"""The client of a Breadcrumb registry, for notebooks and scripts.

The base of a model, a release, or any composition, verified byte by byte:

    from client import pull, verify
    model = pull("alice/tiny@1.0.0", "merged")
    verify("merged", "alice/tiny@1.0.0").ok

A patch made from a fine-tuned model, and contributed:

    from client import diff, push
    diff("base", "tuned", "patch.safetensors", drop_bottom="0.85")
    push("patch.safetensors", "alice/tiny", title="Adds and subtracts two-digit numbers")

Both in one step, from a folder, an adapter, or a model in memory:

    from client import push_patch
    push_patch("tuned", "alice/tiny", title="Adds and subtracts two-digit numbers", propose=True)

Any subset of patches, composed at the registry (then pulled), or on this machine without a registry:

    from client import apply, compose, pull
    pull(compose("alice/tiny", [1, (3, "0.5")], alpha="0.3").address, "merged")
    apply("base", ["one.safetensors", ("two.safetensors", "0.5")], "merged-here", alpha="0.3")

A model that is loaded, made another release in place (see `client.live`):

    from client.live import LiveModel
    LiveModel(model, "alice/tiny@1.0.0").switch("1.1.0")

Everything else, one method for each endpoint:

    from client import Client
    with Client("https://crumbs.example.org", token="hf_...") as registry:
        titles = [patch.title for patch in registry.patches("alice/tiny", task="math")]

The functions use the login of `crumb login`, $CRUMB_URL and $CRUMB_TOKEN, unless they are given `client`, or `url` and
`token`. They raise errors of `registry.errors`. Results have a table for notebooks.

The logger `client.api.http` has a debug line for each HTTP call and each retry, without secrets:

    import logging
    logging.basicConfig()
    logging.getLogger("client").setLevel(logging.DEBUG)

Names are loaded when they are first used, so that `import client` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.api.client import Client
    from client.library import apply, compose, diff, pull, push, push_patch, verify

__all__ = ["Client", "__version__", "apply", "compose", "diff", "pull", "push", "push_patch", "verify"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("breadcrumb-registry")
    from registry.extras import naming_extras

    with naming_extras():
        if name == "Client":
            from client.api.client import Client

            return Client
        if name in __all__:
            from client import library

            return getattr(library, name)
    raise AttributeError(f"module 'client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
