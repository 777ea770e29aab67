"""Publishing releases: files, card and manifest are fixed in one transaction, and never change again."""

import hashlib
import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import AuditHead, Blob, Composition, Model, Release, ReleaseFile, now
from registry.documents import cards, commits, manifest, provenance
from registry.errors import InvalidRequest, NotFound, WrongState
from registry.outside.hub import split
from registry.services.blobs import blobs
from registry.services.catalog import models
from registry.services.composing import builds, compositions, holding, snapshots
from registry.services.curation import evaluations, reviews
from registry.services.people.actors import Actor, record
from registry.services.releasing import releases, taking
from registry.storage.store import Store

CARD_PATH = "README.md"


def publish(session: Session, store: Store, actor: Actor, full_name: str, version: str) -> Release:
    """Publish a candidate. Does nothing if it is already published.

    Raises:
        WrongState: Something is missing; the message names all of it.
    """
    model = models.find(session, full_name, lock=True)  # one release at a time: each follows the one before
    release, subject = releases.find(session, full_name, version, lock=True), f"{full_name}@{version}"
    if release.state == "published":
        return release
    if release.state == "yanked":
        raise WrongState(f"{subject} was yanked, which is final; cut the next version.")
    if reasons := releases.missing(session, model, release):
        raise WrongState(f"{subject} cannot be published yet: {' '.join(reasons)}")
    composition = compositions.composition_of(session, model, release.recipe_digest)
    assert composition is not None
    release.card = card(session, model, release)
    raw = release.card.encode("utf-8")
    sha256 = hashlib.sha256(raw).hexdigest()
    blobs.lock(session, store, sha256, len(raw))
    store.put([raw], sha256)
    taken = {file.path: file.sha256 for file in taking.taken_by(session, [release])[release.id]}
    rest = {**{file.path: file.sha256 for file in composition.files}, CARD_PATH: sha256}
    files = rest | taken
    session.add_all(
        ReleaseFile(release_id=release.id, path=path, sha256=files[path]) for path in sorted(rest.keys() - taken.keys())
    )
    release.publisher_id, release.published_at, release.commit = actor.user_id, now(), commits.commit_id(files)
    session.flush()
    release.manifest = describe(session, model, release, composition).decode("utf-8")
    release.state, model.modified_at = "published", now()
    session.flush()
    holding.hold(session, composition.id)
    session.refresh(release, ["publisher"])
    manifest_digest = manifest.manifest_digest(release.manifest.encode("utf-8"))
    after = {"state": "published", "weights_digest": composition.weights_digest, "manifest": manifest_digest}
    record(session, actor, "release.publish", subject, model, before={"state": "candidate"}, after=after)
    return release


def card(session: Session, model: Model, release: Release) -> str:
    """Return the card of a release: as a maintainer edited it, or else generated.

    Raises:
        WrongState: The release is not composed yet.
    """
    if release.card is not None:
        return release.card
    composition = compositions.composition_of(session, model, release.recipe_digest)
    if composition is None:
        raise WrongState(
            f"{model.full_name}@{release.version} is not composed yet, and its card names the result; try again later."
        )
    recipe = compositions.load(session, release.recipe_digest)
    return cards.render_release_card(
        model.full_name,
        release.version,
        split(model.source)[0] if model.source else model.full_name,
        compositions.to_recipe(recipe),
        composition.weights_digest,
        [
            cards.CardPatch(
                item.sha256,
                revision.patch.number,
                revision.title,
                revision.patch.author.name,
                revision.license,
            )
            for item, revision in compositions.described(session, model, recipe)
            if revision is not None
        ],
        licence=model.license,
        evaluations=evaluations_of(session, model, release),
        changelog=release.changelog,
        base_card=model.card,
    )


def evaluations_of(session: Session, model: Model, release: Release) -> tuple[manifest.Evaluation, ...]:
    """Return the evaluations of a release, as its card and manifest have them."""
    return tuple(
        manifest.Evaluation(row.task, row.dataset, row.metric, row.value, row.higher_is_better, row.user.name)
        for row in evaluations.evaluations_of(session, model, evaluations.Subject(release=release))
    )


def describe(session: Session, model: Model, release: Release, composition: Composition) -> bytes:
    """Return the manifest of a release whose files are fixed."""
    recipe = compositions.load(session, release.recipe_digest)
    sizes = session.execute(
        select(ReleaseFile.path, ReleaseFile.sha256, Blob.size)
        .join(Blob, Blob.sha256 == ReleaseFile.sha256)
        .where(ReleaseFile.release_id == release.id)
    )
    patches = [
        manifest.Patch(
            revision.patch.number,
            revision.number,
            item.sha256,
            item.weight,
            revision.patch.author.name,
            tuple(manifest.Approval(name, item.sha256) for name in reviews.approvers(session, model, revision)),
        )
        for item, revision in compositions.described(session, model, recipe)
        if revision is not None
    ]
    assert model.base_digest is not None and release.published_at is not None and release.card is not None
    head = session.get_one(AuditHead, 1)
    return manifest.make_manifest(
        manifest.Manifest(
            model=model.full_name,
            version=release.version,
            base=model.base_digest,
            recipe=compositions.to_recipe(recipe),
            weights_digest=composition.weights_digest,
            files=tuple(manifest.File(path, sha256, size) for path, sha256, size in sizes),
            patches=tuple(patches),
            evaluations=evaluations_of(session, model, release),
            changelog_sha256=hashlib.sha256(release.changelog.encode("utf-8")).hexdigest(),
            card_sha256=hashlib.sha256(release.card.encode("utf-8")).hexdigest(),
            builders=tuple(
                manifest.Builder(build.builder, build.weights_digest, build.device)
                for build in builds.builds_of(session, model.id, recipe.digest)
            ),
            previous=previous(session, model, release),
            audit=manifest.Audit(head.serial, head.hash),
            created_at=release.published_at,
        )
    )


def previous(session: Session, model: Model, release: Release) -> manifest.Previous | None:
    """Return the release that this one follows, with the digest of its manifest."""
    if release.previous_version is None:
        return None
    earlier = snapshots.find_release(session, model, release.previous_version)
    assert earlier.manifest is not None
    return manifest.Previous(earlier.version, manifest.manifest_digest(earlier.manifest.encode("utf-8")))


def read_manifest(session: Session, full_name: str, version: str) -> bytes:
    """Return the manifest of a published release.

    Raises:
        NotFound: The release is not published, and so has no manifest.
    """
    release = releases.find(session, full_name, version)
    if release.manifest is None:
        raise NotFound(f"{full_name}@{version} is {release.state}; only a published release has a manifest.")
    return release.manifest.encode("utf-8")


def sign(session: Session, actor: Actor, full_name: str, version: str, signature: str) -> Release:
    """Add a maintainer's signature over the manifest. Does nothing if the release has the same signature.

    Raises:
        NotFound: The release is not published.
        WrongState: The release has another signature.
        InvalidRequest: The signature is not a Sigstore bundle. Whoever has the key checks whose it is.
    """
    release = releases.find(session, full_name, version, lock=True)
    read_manifest(session, full_name, version)
    try:
        bundle = json.loads(signature)
    except ValueError:
        bundle = None
    if not isinstance(bundle, dict) or not {"verificationMaterial", "dsseEnvelope"} <= bundle.keys():
        raise InvalidRequest(
            "The signature is not a Sigstore bundle; create one with `crumb release sign`.", field="signature"
        )
    if release.signature == signature:
        return release
    if release.signature is not None:
        raise WrongState(f"{full_name}@{version} is signed already, and its signature cannot be changed.")
    release.signature = signature
    session.flush()
    model = models.find(session, full_name)
    after = {"signature": hashlib.sha256(signature.encode("utf-8")).hexdigest()}
    record(session, actor, "release.sign", f"{full_name}@{version}", model, after=after)
    return release


def signature(session: Session, full_name: str, version: str) -> str:
    """Return the signature over a release's manifest.

    Raises:
        NotFound: The release is not signed.
    """
    stored = releases.find(session, full_name, version).signature
    if stored is None:
        raise NotFound(f"{full_name}@{version} is not signed; a maintainer can sign it with `crumb release sign`.")
    return stored


def statement(session: Session, full_name: str, version: str) -> dict[str, Any]:
    """Return the provenance of a published release as an in-toto statement.

    Raises:
        NotFound: The release is not published.
    """
    return provenance.statement(manifest.read_manifest(read_manifest(session, full_name, version)))


def approvals(session: Session, model: Model, release: Release) -> dict[str, list[str]]:
    """Return the names of those who approve each patch of a release now, by `number.revision`."""
    recipe = compositions.load(session, release.recipe_digest)
    revisions = [revision for _, revision in compositions.described(session, model, recipe) if revision]
    names = reviews.approvals(session, model, revisions)
    return {f"{revision.patch.number}.{revision.number}": names[revision.id] for revision in revisions}


def approved(session: Session, model: Model, release: Release) -> dict[str, list[str]]:
    """Return who approved each patch, by `number.revision`: from the manifest once published, else as of now."""
    if release.manifest is None:
        return approvals(session, model, release)
    listed = json.loads(release.manifest)["patches"]
    return {f"{one['number']}.{one['revision']}": sorted(by["who"] for by in one["approvals"]) for one in listed}
