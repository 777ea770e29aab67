"""Recipes of documents: what is composed has one digest, and releases are what their manifests say."""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from registry.db.tables import Build, Composition, CompositionFile, Model, Recipe, Release, ReleaseFile
from registry.documents import commits, manifest
from registry.errors import DigestMismatch
from registry.services.composing import alone, builds, compositions
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
    for row in document.of(Composition):
        take_commit(session, model, document, row)
    for row in document.of(Release):
        if row["state"] not in SEALED and row["commit"] is not None:
            require_commit(row, files_of(document, Composition) | files_of(document, Release, row["id"]))
    published = [row for row in document.of(Release) if row["state"] in SEALED and row["id"] not in document.unsigned]
    for row in published:
        check_release(document, row)
    others = {row["builder"] for row in document.of(Build)}
    ours = any(build.builder not in others for build in builds.builds_of(session, model.id, digest))
    if published and not ours and document.of(Composition):
        key, asker = compositions.rebuild_key(model, digest), published[0]["publisher_id"] or model.creator_id
        jobs.enqueue(session, asker, "rebuild", key, model, digest, {"recipe": digest})
    session.flush()


def take_commit(session: Session, model: Model, document: Document, row: Mapping[str, Any]) -> None:
    """Hold the commit of a composition to its files, and find that of the patch alone, if that is what it is."""
    paths = files_of(document, Composition, row["id"])
    require_commit(row, paths)
    recipe = session.get_one(Recipe, row["recipe_digest"])
    session.refresh(recipe, ["items"])
    alone.name(session, model, recipe, paths)


def files_of(document: Document, table: type[Composition | Release], key: uuid.UUID | None = None) -> dict[str, str]:
    """Return the files of compositions or releases of a document, or of one of them, digests by path."""
    of, owner = (CompositionFile, "composition_id") if table is Composition else (ReleaseFile, "release_id")
    return {row["path"]: row["sha256"] for row in document.of(of) if key is None or row[owner] == key}


def require_commit(row: Mapping[str, Any], paths: Mapping[str, str]) -> None:
    """Refuse a commit of other files.

    Raises:
        DigestMismatch: It is one.
    """
    if row["commit"] != commits.commit_id(paths):
        raise DigestMismatch(f"The commit {row['commit']} of the recipe {row['recipe_digest'][:12]} has other files.")


def check_release(document: Document, row: Mapping[str, Any]) -> None:
    """Refuse a release that is not what its manifest says.

    Raises:
        DigestMismatch: It differs; the message says in what.
        InvalidRequest: There is no sound manifest.
    """
    assert document.recipe is not None
    told = manifest.read_manifest((row["manifest"] or "").encode())
    paths = files_of(document, Release, row["id"])
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
