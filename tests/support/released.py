"""Releases in tests: what they hold, and what is pulled of them."""

import hashlib
import json
from typing import Any

from sqlalchemy import select

from registry.db.tables import Release, ReleaseFile
from tests.support.community import URL, Community

OTHER = "sha256:" + "0" * 64
BUNDLE = json.dumps({"verificationMaterial": {}, "dsseEnvelope": {}})
ALONE = "was composed by {worker} alone, and 2 must agree"


def numbers(release: dict[str, Any]) -> dict[int, str]:
    return {item["number"]: item["weight"] for item in release["recipe"]["patches"]}


def scalars(crew: Community, query: Any) -> list[Any]:
    with crew.world.database.read() as session:
        return list(session.scalars(query))


def row(crew: Community, version: str) -> dict[str, Any]:
    """Return the rows of a release and its files."""
    with crew.world.database.read() as session:
        found = session.scalars(select(Release).where(Release.version == version)).one()
        files = session.scalars(select(ReleaseFile).where(ReleaseFile.release_id == found.id))
        columns = {column.name: getattr(found, column.name) for column in Release.__table__.columns}
        return columns | {"files": {file.path: file.sha256 for file in files}}


def pulled(crew: Community, ref: str, user: str | None = None) -> dict[str, bytes]:
    revision = crew.get(f"/revisions/{ref}", user)
    client = crew.world.client(user)
    found = {}
    for file in revision["files"]:
        answer = client.get(f"{URL}/revisions/{ref}/files/{file['path']}")
        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert ("immutable" in answer.headers["cache-control"]) == (ref == revision["ref"])
        assert (hashlib.sha256(answer.content).hexdigest(), len(answer.content)) == (file["sha256"], file["size"])
        found[file["path"]] = answer.content
    return found


def raw_manifest(crew: Community, version: str) -> bytes:
    answer = crew.world.client(None).get(f"{URL}/releases/{version}/manifest")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.content
