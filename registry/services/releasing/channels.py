"""Channels: names that point at releases, with a history of moves, and a rule that every move obeys."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Channel, ChannelMove, ChannelVote, Model, Release, User, now
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.services.catalog import models
from registry.services.composing import holding, snapshots
from registry.services.people import access, paging
from registry.services.people.actors import Actor, record
from registry.services.people.rules import Role
from registry.services.releasing import dossiers, releases

CHANNEL_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")
RESERVED_NAMES = frozenset({"base", "default", "head", "latest", "main", "master", "recipe", "release", "tag"})
LIKE_A_DIGEST = re.compile(r"[0-9a-f]{7,}")


def check_name(name: str) -> None:
    """Refuse names that could be mistaken for another kind of ref.

    Raises:
        InvalidRequest: The name is not valid; the message says how to write one.
    """
    if (
        not CHANNEL_NAME.fullmatch(name)
        or name in RESERVED_NAMES
        or LIKE_A_DIGEST.fullmatch(name)
        or name.startswith("recipe-")
    ):
        raise InvalidRequest(
            f"'{name}' is not a valid channel name: use 1 to 32 of a-z 0-9 -, first a letter, like stable or beta.",
            field="channel",
        )


@dataclass(frozen=True)
class Pointer:
    """A channel, the version that it points at, who has asked for which move, and a sentence for each yanked patch."""

    channel: Channel
    version: str | None
    asked: dict[str, list[str]]
    warnings: list[str]


def pointers(session: Session, model: Model, only: Channel | None = None) -> list[Pointer]:
    """Return a model's channels by name, or one of them, with what they point at, in a fixed number of queries."""
    chosen = Channel.model_id == model.id if only is None else Channel.id == only.id
    aims = select(Channel, Release.version, Release.recipe_digest).outerjoin(Release, Release.id == Channel.release_id)
    rows = session.execute(aims.where(chosen).order_by(Channel.name)).all()
    inside = select(Release.recipe_digest).join(Channel, Channel.release_id == Release.id).where(chosen)
    yanked, asked = dossiers.yanked_by_recipe(session, model, inside), pending(session, chosen)
    return [
        Pointer(channel, version, asked.get(channel.id, {}), yanked.get(digest, []))
        for channel, version, digest in rows
    ]


def find(session: Session, model: Model, name: str, *, lock: bool = False) -> Channel:
    """Return a channel.

    Raises:
        NotFound: The model has no such channel.
    """
    query = select(Channel).where(Channel.model_id == model.id, Channel.name == name)
    channel = session.scalar(query.with_for_update(of=Channel) if lock else query)
    if channel is None:
        raise NotFound(f"{model.full_name} has no channel '{name}'; see `crumb channel list {model.full_name}`.")
    return channel


def move(session: Session, actor: Actor, full_name: str, name: str, version: str, reason: str) -> Channel:
    """Point a channel at a release, creating it if new; with too few approvals, only record that the caller asked.

    Raises:
        NotFound: No such release exists.
        Forbidden: The channel's rule asks for a higher role.
        WrongState: The release is not published, was yanked, or holds a yanked patch.
    """
    check_name(name)
    model = models.ready(session, full_name, lock=True)
    release = snapshots.find_release(session, model, version)
    channel = session.scalar(select(Channel).where(Channel.model_id == model.id, Channel.name == name))
    if channel is None:
        channel = Channel(model_id=model.id, name=name)
        session.add(channel)
        session.flush()
    if channel.release_id == release.id:
        return channel
    return apply_move(session, actor, model, channel, release, "move", reason)


def rollback(session: Session, actor: Actor, full_name: str, name: str, reason: str) -> Channel:
    """Point a channel at the release that it pointed at before; the same rule applies as for any move.

    Raises:
        NotFound: The model has no such channel.
        WrongState: The channel has no earlier release, or its rule does not allow that one.
    """
    model = models.ready(session, full_name, lock=True)
    channel = find(session, model, name)
    before = target_of_rollback(session, channel)
    if before is None:
        raise WrongState(f"The channel {full_name}@{name} has no earlier release to go back to; move it instead.")
    return apply_move(session, actor, model, channel, before, "rollback", reason)


def target_of_rollback(session: Session, channel: Channel) -> Release | None:
    """Return the release that a channel pointed at before: a second rollback goes further back, not forth again."""
    moves = select(ChannelMove.kind, ChannelMove.release_id).where(ChannelMove.channel_id == channel.id)
    trail: list[UUID] = []
    for kind, release_id in session.execute(moves.order_by(ChannelMove.number)):
        if kind == "move":
            trail.append(release_id)
        elif trail:
            trail.pop()
    return session.get(Release, trail[-2]) if len(trail) > 1 else None


def apply_move(
    session: Session, actor: Actor, model: Model, channel: Channel, release: Release, kind: str, reason: str
) -> Channel:
    """Move a channel if its rule allows it; every move goes through here."""
    subject = f"{model.full_name}@{channel.name}"
    least = Role[channel.role.upper()]
    if access.role_on(session, actor, model) < least:
        raise Forbidden(f"The channel {subject} is protected; moving it needs {least.one}.")
    if release.state != "published":
        raise WrongState(
            f"{model.full_name}@{release.version} is {release.state}; a channel points at a published release."
        )
    yanked = releases.yanked_in(session, model, release)
    if yanked and not channel.allow_yanked:
        raise WrongState(f"{subject} does not allow a release with yanked patches: {' '.join(yanked)}")
    before = session.get(Release, channel.release_id) if channel.release_id else None
    earlier_voters = pending_moves(session, channel).get(release.version, [])
    if not vote(session, actor, model, channel, release):
        if actor.name not in earlier_voters:
            after = {"release": release.version, "asked": sorted([*earlier_voters, actor.name])}
            record(session, actor, "channel.ask", subject, model, after=after)
        return channel
    number = session.scalar(select(func.max(ChannelMove.number)).where(ChannelMove.channel_id == channel.id)) or 0
    session.add(
        ChannelMove(
            channel_id=channel.id,
            number=number + 1,
            kind=kind,
            release_id=release.id,
            user_id=actor.user_id,
            reason=reason,
        )
    )
    channel.release_id, model.modified_at = release.id, now()
    holding.hold_recipe(session, model, release.recipe_digest)
    session.execute(delete(ChannelVote).where(ChannelVote.channel_id == channel.id))
    session.flush()
    session.refresh(channel, ["release"])
    old = {"release": before.version if before else None}
    new = {"release": release.version, "reason": reason}
    record(session, actor, f"channel.{kind}", subject, model, before=old, after=new)
    return channel


def vote(session: Session, actor: Actor, model: Model, channel: Channel, release: Release) -> bool:
    """Record that the caller asks for a move; return whether enough users with the role do now."""
    if channel.approvals <= 1:
        return True
    row = session.get(ChannelVote, (channel.id, actor.user_id))
    if row is None:
        row = ChannelVote(channel_id=channel.id, user_id=actor.user_id, release_id=release.id)
        session.add(row)
    row.release_id = release.id
    session.flush()
    least = Role[channel.role.upper()]
    voters = session.execute(
        select(User.id, User.is_admin)
        .join(ChannelVote, ChannelVote.user_id == User.id)
        .where(ChannelVote.channel_id == channel.id, ChannelVote.release_id == release.id, User.is_active)
    )
    count = sum(access.role_held(session, user_id, model, admin) >= least for user_id, admin in voters)
    return count >= channel.approvals


def pending_moves(session: Session, channel: Channel) -> dict[str, list[str]]:
    """Return the names of the users who have asked to move a channel, by version."""
    return pending(session, Channel.id == channel.id).get(channel.id, {})


def pending(session: Session, chosen: ColumnElement[bool]) -> dict[UUID, dict[str, list[str]]]:
    """Return what `pending_moves` does, for all channels that meet a condition, by their keys."""
    by_channel: dict[UUID, dict[str, list[str]]] = {}
    for key, version, name in session.execute(
        select(Channel.id, Release.version, User.name)
        .join(ChannelVote, ChannelVote.channel_id == Channel.id)
        .join(Release, Release.id == ChannelVote.release_id)
        .join(User, User.id == ChannelVote.user_id)
        .where(chosen)
        .order_by(Release.sort, User.name)
    ):
        by_channel.setdefault(key, {}).setdefault(version, []).append(name)
    return by_channel


def history(session: Session, channel: Channel) -> Sequence[ChannelMove]:
    """Return all moves of a channel, oldest first."""
    return session.scalars(
        select(ChannelMove)
        .where(ChannelMove.channel_id == channel.id)
        .options(joinedload(ChannelMove.release), joinedload(ChannelMove.user))
        .order_by(ChannelMove.number)
    ).all()


def moves(session: Session, channel: Channel, before: int | None, limit: int) -> tuple[list[ChannelMove], int | None]:
    """Return a page of the moves of a channel, newest first, and the cursor of the next page."""
    query = select(ChannelMove).where(ChannelMove.channel_id == channel.id)
    if before is not None:
        query = query.where(ChannelMove.number < before)
    query = query.options(joinedload(ChannelMove.release).load_only(Release.version), joinedload(ChannelMove.user))
    rows = session.scalars(query.order_by(ChannelMove.number.desc()).limit(limit + 1)).all()
    return paging.cut(rows, limit, lambda move: move.number)


def pointing(session: Session, model: Model, limit: int) -> list[tuple[str, str | None]]:
    """Return up to `limit` channels of a model by name, each with the version that it points at."""
    query = select(Channel.name, Release.version).outerjoin(Release, Release.id == Channel.release_id)
    query = query.where(Channel.model_id == model.id).order_by(Channel.name).limit(limit)
    return [(name, version) for name, version in session.execute(query)]


def protect(
    session: Session,
    actor: Actor,
    full_name: str,
    name: str,
    role: str | None,
    approvals: int | None,
    allow_yanked: bool | None,
) -> Channel:
    """Change a channel's rule, creating the channel if new; arguments that are None change nothing."""
    check_name(name)
    model = models.ready(session, full_name, lock=True)
    channel = session.scalar(select(Channel).where(Channel.model_id == model.id, Channel.name == name))
    if channel is None:
        channel = Channel(model_id=model.id, name=name, role="maintainer", approvals=1, allow_yanked=False)
        session.add(channel)
    before = rule(channel) if channel.id else None
    channel.role = channel.role if role is None else role
    channel.approvals = channel.approvals if approvals is None else approvals
    channel.allow_yanked = channel.allow_yanked if allow_yanked is None else allow_yanked
    session.flush()
    after = rule(channel)
    if after != before:
        record(session, actor, "channel.protect", f"{full_name}@{name}", model, before=before, after=after)
    return channel


def rule(channel: Channel) -> dict[str, object]:
    """Return a channel's rule, for the record."""
    return {"role": channel.role, "approvals": channel.approvals, "allow_yanked": channel.allow_yanked}
