"""Sealed rows do not change: the database session itself refuses."""

from pathlib import Path

import pytest
from sqlalchemy import select

from registry.db.tables import Model, PatchRevision, Recipe, Release, User
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, push_patch


def test_the_bytes_and_words_of_a_revision_never_change(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    for name, value in (("sha256", "0" * 64), ("title", "other"), ("number", 2), ("size", 1)):
        with pytest.raises(ValueError, match=name), world.database.write() as session:
            setattr(session.scalars(select(PatchRevision)).one(), name, value)
    with world.database.write() as session:
        session.scalars(select(PatchRevision)).one().state = "refused"


def test_a_published_release_changes_in_nothing_but_a_yank_and_a_signature(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    with world.database.write() as session:
        user, model = session.scalars(select(User)).one(), session.scalars(select(Model)).one()
        session.add(Recipe(digest="0" * 64, base_digest=model.base_digest or "", alpha="1"))
        session.flush()
        kept = {"model_id": model.id, "creator_id": user.id, "recipe_digest": "0" * 64, "changelog": ""}
        session.add(Release(version="1.0.0", sort="1", state="candidate", **kept))
    with world.database.write() as session:
        release = session.scalars(select(Release)).one()
        release.changelog, release.state = "until it is published", "published"
    for name, value in (("changelog", "other"), ("card", "other"), ("manifest", "{}"), ("version", "1.0.1")):
        with pytest.raises(ValueError, match=name), world.database.write() as session:
            setattr(session.scalars(select(Release)).one(), name, value)
    with pytest.raises(ValueError, match="changelog"), world.database.write() as session:
        release = session.scalars(select(Release)).one()
        release.state, release.changelog = "draft", "open again, and changed at once"
    with world.database.write() as session:
        release = session.scalars(select(Release)).one()
        release.state, release.yank_reason, release.signature = "yanked", "bad", "{}"
