"""Channels: names that point at releases, with a history, and a rule that every way of moving them obeys."""

import re
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Channel, ChannelMove, ChannelVote, Model, Release, User, now
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.services.catalog import models
from registry.services.composing import snapshots
from registry.services.people import access
from registry.services.people.actors import Actor, record
from registry.services.people.rules import Role
from registry.services.releasing import releases

NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")
RESERVED = frozenset({"base", "default", "head", "latest", "main", "master", "recipe", "release", "tag"})
HEX = re.compile(r"[0-9a-f]{7,}")


def check_name(name: str) -> None:
    """Refuse what cannot be told from another kind of reference.

    Raises:
        InvalidRequest: says how to write it.
    """
    if not NAME.fullmatch(name) or name in RESERVED or HEX.fullmatch(name) or name.startswith("recipe-"):
        raise InvalidRequest(
            f"'{name}' is no name for a channel: use 1 to 32 of a-z 0-9 -, first a letter, like stable or beta.",
            field="channel",
        )


def listing(session: Session, full_name: str) -> Sequence[Channel]:
    """Return a model's channels, by name."""
    model = models.find(session, full_name)
    return session.scalars(
        select(Channel).where(Channel.model_id == model.id).options(joinedload(Channel.release)).order_by(Channel.name)
    ).all()


def find(session: Session, model: Model, name: str, *, lock: bool = False) -> Channel:
    """Return a channel.

    Raises:
        NotFound: the model has none of that name.
    """
    query = select(Channel).where(Channel.model_id == model.id, Channel.name == name)
    channel = session.scalar(query.with_for_update(of=Channel) if lock else query)
    if channel is None:
        raise NotFound(f"{model.full_name} has no channel '{name}'; see `crumb channel list {model.full_name}`.")
    return channel


def move(session: Session, actor: Actor, full_name: str, name: str, version: str, reason: str) -> Channel:
    """Point a channel at a release, making the channel when new; with too few who ask, only note that one more does.

    Raises:
        NotFound: there is no such release.
        Forbidden: the channel's rule asks for a higher role.
        WrongState: the release is not published, or is or holds what was yanked.
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
    """Point a channel at the release it pointed at before; the same rule holds as for any move.

    Raises:
        NotFound: there is no such channel.
        WrongState: there is nothing to go back to, or it may not be gone back to.
    """
    model = models.ready(session, full_name, lock=True)
    channel = find(session, model, name)
    before = target_of_rollback(session, channel)
    if before is None:
        raise WrongState(f"The channel {full_name}@{name} has pointed at nothing before; move it instead.")
    return apply_move(session, actor, model, channel, before, "rollback", reason)


def target_of_rollback(session: Session, channel: Channel) -> Release | None:
    """Return where a channel pointed before: a second rollback goes further back, and not forth again."""
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
    """Move a channel if its rule lets it: the one place through which every move goes."""
    subject = f"{model.full_name}@{channel.name}"
    least = Role[channel.role.upper()]
    if access.role_on(session, actor, model) < least:
        raise Forbidden(f"The channel {subject} is protected; moving it needs {least.one}.")
    if release.state != "published":
        raise WrongState(
            f"{model.full_name}@{release.version} is {release.state}; channels point at what is published."
        )
    yanked = releases.yanked_in(session, model, release)
    if yanked and not channel.allow_yanked:
        raise WrongState(f"{subject} takes no release with yanked patches: {' '.join(yanked)}")
    before = session.get(Release, channel.release_id) if channel.release_id else None
    already = pending_moves(session, channel).get(release.version, [])
    if not enough_ask(session, actor, model, channel, release):
        if actor.name not in already:
            after = {"release": release.version, "asked": sorted([*already, actor.name])}
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
    session.execute(delete(ChannelVote).where(ChannelVote.channel_id == channel.id))
    session.flush()
    session.refresh(channel, ["release"])
    was = {"release": before.version if before else None}
    record(
        session,
        actor,
        f"channel.{kind}",
        subject,
        model,
        before=was,
        after={"release": release.version, "reason": reason},
    )
    return channel


def enough_ask(session: Session, actor: Actor, model: Model, channel: Channel, release: Release) -> bool:
    """Note that somebody asks for a move, and say whether enough of those who may do."""
    if channel.approvals <= 1:
        return True
    vote = session.get(ChannelVote, (channel.id, actor.user_id))
    if vote is None:
        vote = ChannelVote(channel_id=channel.id, user_id=actor.user_id, release_id=release.id)
        session.add(vote)
    vote.release_id = release.id
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
    """Return who has asked to move a channel, by version."""
    found: dict[str, list[str]] = {}
    for version, name in session.execute(
        select(Release.version, User.name)
        .join(ChannelVote, ChannelVote.release_id == Release.id)
        .join(User, User.id == ChannelVote.user_id)
        .where(ChannelVote.channel_id == channel.id)
        .order_by(Release.sort, User.name)
    ):
        found.setdefault(version, []).append(name)
    return found


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
    found = list(session.scalars(query.order_by(ChannelMove.number.desc()).limit(limit + 1)))
    return found[:limit], found[limit - 1].number if len(found) > limit else None


def pointing(session: Session, model: Model, limit: int) -> list[tuple[str, str | None]]:
    """Return the first channels of a model by name, each with the version that it points at."""
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
    """Change a channel's rule, making the channel when new; what is None stays as it is."""
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
