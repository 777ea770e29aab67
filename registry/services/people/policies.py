"""Policies: what admins ask of everybody: who may join, under which licences, by which masks, from where.

What was there before a policy stays. It is asked of what comes in, is accepted, or is released:

    licences    of a new base or patch, of what is accepted, and of what is released
    masks       of a patch that is to be accepted, and of what a model's settings say
    Hub models  of a new base
"""

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.tables import Policy, now
from registry.errors import InvalidRequest
from registry.services.people.actors import Actor, record

KEY = 1  # of the one row
REGISTRATIONS = ("closed", "invitation", "open")  # from the strictest
NAMED = 12  # licences in a sentence; the policy itself has them all
SEE = "see `crumb admin policy`"


def read(session: Session) -> Policy:
    """Return the policy."""
    return session.get(Policy, KEY) or Policy(id=KEY)


def change(session: Session, actor: Actor, wanted: dict[str, Any], setting: str) -> Policy:
    """Change what admins ask, and record it. Does nothing if all is set already.

    Args:
        session: A writing transaction.
        actor: The admin.
        wanted: Columns of the policy; None asks for nothing from now on.
        setting: How people join by the operator's setting.

    Raises:
        InvalidRequest: More people would join than the operator lets in, or a mask would leave out everything.
    """
    policy = locked(session)
    changed = {name: value for name, value in wanted.items() if value != getattr(policy, name)}
    before = {name: getattr(policy, name) for name in changed}
    for name, value in changed.items():
        setattr(policy, name, value)
    if policy.registration and stricter(policy, setting) != policy.registration:
        raise InvalidRequest(
            f"The operator has set REGISTRY_REGISTRATION to {setting}; a policy can be stricter, not more open.",
            field="registration",
        )
    if sum(Fraction(share or 0) for share in (policy.min_drop_bottom, policy.min_drop_top)) >= 1:
        raise InvalidRequest("The least shares to leave out have to be below 1 together.", field="min_drop_bottom")
    if changed:
        policy.changed_at = now()
        session.flush()
        record(session, actor, "policy.change", "the registry", before=before, after=changed)
    return policy


def locked(session: Session) -> Policy:
    """Return the policy, locked; its row is added if nobody has changed it before."""
    while (policy := session.get(Policy, KEY, with_for_update=True)) is None:
        with suppress(IntegrityError), session.begin_nested():  # another admin may add it at the same moment
            session.add(Policy(id=KEY))
            session.flush()
    return policy


def registration(session: Session, setting: str) -> str:
    """Return how people join: the stricter of the operator's setting and the policy."""
    return stricter(read(session), setting)


def stricter(policy: Policy, setting: str) -> str:
    """Return how people join, given the policy and the setting."""
    return min(setting, policy.registration or setting, key=REGISTRATIONS.index)


def require_license(session: Session, license: str | None, whose: str) -> None:
    """Refuse a base or a patch without a licence of the policy.

    Raises:
        InvalidRequest: It states another one, or none.
    """
    policy = read(session)
    if policy.licenses is None:
        return
    if license is None:
        raise InvalidRequest(f"{whose} states no licence; name one of {listed(policy.licenses)}.", field="license")
    if fault := license_fault(policy, license, whose):
        raise InvalidRequest(fault, field="license")


def license_fault(policy: Policy, license: str | None, whose: str) -> str | None:
    """Return a sentence if something states a licence that is not of the policy."""
    if policy.licenses is None or license is None or license in policy.licenses:
        return None
    return f"{whose} is under {license}, and this registry takes {listed(policy.licenses)}."


def listed(licenses: Sequence[str]) -> str:
    """Return licences in a sentence."""
    more = f" and {len(licenses) - NAMED} others ({SEE})" if len(licenses) > NAMED else ""
    return ", ".join(licenses[:NAMED]) + more


def mask_faults(policy: Policy, drop_bottom: str | None, drop_top: str | None, whose: str) -> list[str]:
    """Return a sentence for each bound of the policy that a mask breaks."""
    bounds = (
        ("smallest", "--drop-bottom", drop_bottom, policy.min_drop_bottom),
        ("largest", "--drop-top", drop_top, policy.min_drop_top),
    )
    return [
        f"{whose} leaves out {share} of the {which} changes, and this registry asks for {least} at least ({option})."
        for which, option, share, least in bounds
        if least is not None and share is not None and Fraction(share) < Fraction(least)
    ]


def require_mask(session: Session, drop_bottom: str, drop_top: str, whose: str) -> None:
    """Refuse a mask that breaks a bound of the policy.

    Raises:
        InvalidRequest: It does; the message has the bound.
    """
    if faults := mask_faults(read(session), drop_bottom, drop_top, whose):
        raise InvalidRequest(" ".join(faults), field="mask")


def require_hub_model(session: Session, source: str) -> None:
    """Refuse a base from the Hub, `hf://org/name@revision`, that the policy does not name.

    Raises:
        InvalidRequest: The policy does not name it.
    """
    allowed = read(session).hub_models
    if allowed is None:
        return
    name = source.removeprefix("hf://").partition("@")[0].casefold()
    if not {name, f"{name.partition('/')[0]}/*"} & {pattern.casefold() for pattern in allowed}:
        some = f"only those that its admins have named ({SEE})" if allowed else "none"
        raise InvalidRequest(
            f"{source} cannot be a base here: of the Hub's models this registry takes {some}.", field="source"
        )
