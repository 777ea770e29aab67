"""Pushes as the Hub's tools send them: commits with small files in them, and the weights of a folder."""

import base64
import json
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

NAME = "alice/m"
COMMIT = f"/api/models/{NAME}/commit/main"


def body(files: dict[str, bytes | str], title: str = "Learn", deleted: tuple[str, ...] = ()) -> bytes:
    """Return a commit; a text is the sha256 of a large file."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": title, "description": ""}}]
    for path, content in files.items():
        if isinstance(content, str):
            lines.append({"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": content, "size": 1}})
        else:
            encoded = base64.b64encode(content).decode()
            lines.append({"key": "file", "value": {"path": path, "content": encoded, "encoding": "base64"}})
    lines += [{"key": "deletedFile", "value": {"path": path}} for path in deleted]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def pushed(client: TestClient, files: dict[str, bytes | str], where: str = COMMIT, **params: Any) -> Any:
    return client.post(where, content=body(files), params=params or {"create_pr": 1})


def weights(folder: Path) -> dict[str, bytes | str]:
    return {"model.safetensors": (folder / "model.safetensors").read_bytes()}
