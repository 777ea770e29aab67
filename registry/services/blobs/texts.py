"""Texts: small files that the server reads itself, bounded and never trusted to be what their names say."""

import json
from collections.abc import Mapping
from typing import Any

from registry.storage.store import Store

CARD_BYTES = CONFIG_BYTES = 2**20


def read_card(store: Store, files: Mapping[str, str]) -> str | None:
    """Return the text of README.md among (path -> sha256) files, if there is one of at most 1 MiB of UTF-8."""
    if "README.md" not in files:
        return None
    raw = store.read(files["README.md"], CARD_BYTES)
    return None if raw is None else raw.decode("utf-8", "replace").replace("\0", "\ufffd")


def read_config(store: Store, sha256: str) -> dict[str, Any]:
    """Return a config.json; nothing unless it is a JSON object of at most 1 MiB.

    Raises:
        BlobDamaged, StorageFailed, TooMany: As of `Store.read`.
    """
    try:
        config = json.loads(store.read(sha256, CONFIG_BYTES) or "{}")
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
