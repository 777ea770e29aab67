"""Schemas of accounts and of how people join: invitations, requests, profiles."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from registry.files.names import LINE, NAME
from registry.schemas.wire import Answer, ModelName, Text, Wire

Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100, pattern=rf"^{LINE}$")]
UserName = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Secret = Annotated[str, StringConstraints(min_length=20, max_length=200, pattern=r"^[A-Za-z0-9_-]*$")]


class Profile(Answer):
    """A user as everybody sees them, with the organisations that they belong to if the caller is signed in."""

    name: str
    display_name: str = Field(description="how they want to be called, or empty")
    program: bool = Field(description="whether only workflows speak for it, by trusted publishing")
    created_at: datetime
    patches: list["Contribution"] = Field(description="the newest that the caller may see")


class Contribution(Answer):
    """A patch in the list of what somebody contributed."""

    model: ModelName
    number: int
    title: str
    state: str
    created_at: datetime


class ProfileUpdate(Wire):
    """Change how you want to be called."""

    display_name: Line


class InvitationRequest(Wire):
    """Invite one person."""

    label: Line = Field("", description="whom it is for, in lists")
    expires_days: float = Field(7, gt=0, le=30)


class MemberInvitationRequest(InvitationRequest):
    """Invite one person to a namespace; they join the registry by it if they have no account."""

    role: Literal["contributor", "reviewer", "maintainer", "owner"] = "contributor"


class Invitation(Answer):
    """An invitation that nobody used, or a request to join that waits for an admin."""

    id: str
    state: Literal["asked", "open", "used"]
    namespace: str | None = Field(description="where it gives a role; null if it only makes an account")
    role: str | None
    label: str
    asked_name: str | None = Field(description="the name that somebody who asked wants")
    message: str
    created_by: str | None = Field(description="who invited, or approved")
    created_at: datetime
    expires_at: datetime


class NewInvitation(Invitation):
    """An invitation with its address, which is shown once."""

    url: str


class InvitationPage(Answer):
    """Invitations, newest first; `next` is the `before` of the next page."""

    items: list[Invitation]
    next: str | None


class AskRequest(Wire):
    """Ask to join; an admin approves."""

    name: UserName
    message: Annotated[Text, StringConstraints(max_length=1000)] = Field(
        "", description="who you are and what for, for the admin who decides"
    )


class Asked(Answer):
    """What whoever asked to join gets: an address that lets them in once an admin approves. It is shown once."""

    name: str
    url: str
    expires_at: datetime


class RefuseRequests(Wire):
    """Refuse all requests to join that you have seen: those made until a time."""

    until: AwareDatetime


class RefusedRequests(Answer):
    """How many requests were refused."""

    refused: int


class AcceptInvitation(Wire):
    """Use an invitation: with a token for a role, without one to make an account, which needs a name."""

    invitation: Secret
    name: UserName | None = None
    display_name: Line = ""


class Joined(Answer):
    """What an invitation gave: an account with its first token, shown once, or a role."""

    user: str
    token: str | None = Field(description="null for somebody who had an account")
    namespace: str | None
    role: str | None


class AccountRequest(Wire):
    """Make an account for somebody."""

    name: UserName
    display_name: Line = ""
    expires_days: float = Field(365, gt=0, le=365, description="of its first token")


class AccountUpdate(Wire):
    """Disable a user, or enable them again."""

    active: bool


class Account(Answer):
    """A user as admins see them."""

    name: str
    display_name: str
    admin: bool
    program: bool = Field(description="whether only workflows speak for it, by trusted publishing")
    active: bool
    created_at: datetime


class NewAccount(Account):
    """An account with its first token, which is shown once."""

    token: str


class AccountPage(Answer):
    """Users by name; `next` is the `after` of the next page."""

    items: list[Account]
    next: str | None
