"""Recipes of documents: what is composed has one digest, and releases are what their manifests say."""

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from registry.db.tables import Build, Composition, Model, Recipe, Release, ReleaseFile
from registry.documents import commits, manifest
from registry.errors import DigestMismatch
from registry.services.composing import builds, compositions
from registry.services.mirroring.carried import SEALED
from registry.services.mirroring.documents import Document
from registry.services.queue import jobs


def check_recipe(session: Session, model: Model, document: Document) -> None:
    """Hold what is composed to one digest, releases to their manifests, and have what was published composed here.

    Raises:
        DigestMismatch: A release is not what its manifest says.
    """
    assert document.recipe is not None
    digest = document.recipe.digest
    results = set(builds.results(session, model, [digest])[digest])
    results |= {row["weights_digest"] for row in document.of(Composition)}
    if len(results) > 1:
        session.get_one(Recipe, digest).disputed = True
    published = [row for row in document.of(Release) if row["state"] in SEALED and row["id"] not in document.unsigned]
    for row in published:
        check_release(document, row)
    others = {row["builder"] for row in document.of(Build)}
    ours = any(build.builder not in others for build in builds.builds_of(session, model.id, digest))
    if published and not ours and document.of(Composition):
        key, asker = compositions.rebuild_key(model, digest), published[0]["publisher_id"] or model.creator_id
        jobs.enqueue(session, asker, "rebuild", key, model, digest, {"recipe": digest})
    session.flush()


def check_release(document: Document, row: Mapping[str, Any]) -> None:
    """Refuse a release that is not what its manifest says.

    Raises:
        DigestMismatch: It differs; the message says in what.
        InvalidRequest: There is no sound manifest.
    """
    assert document.recipe is not None
    told = manifest.read_manifest((row["manifest"] or "").encode())
    paths = {file["path"]: file["sha256"] for file in document.of(ReleaseFile) if file["release_id"] == row["id"]}
    texts = {name: hashlib.sha256((row[name] or "").encode()).hexdigest() for name in ("card", "changelog")}
    weights = {one["weights_digest"] for one in document.of(Composition)}
    held = {
        "version": told.version == row["version"],
        "base": told.base == document.model["base_digest"],
        "recipe": told.recipe.digest == document.recipe.digest,
        "weights": weights <= {told.weights_digest},
        "files": {file.path: file.sha256 for file in told.files} == paths,
        "card": told.card_sha256 == texts["card"],
        "changelog": told.changelog_sha256 == texts["changelog"],
        "commit": row["commit"] == commits.commit_id(paths),
    }
    if wrong := [name for name, right in held.items() if not right]:
        raise DigestMismatch(
            f"The release {row['version']} of {document.space.name}/{document.model['name']} is not what its manifest "
            f"says: {', '.join(wrong)}."
        )
