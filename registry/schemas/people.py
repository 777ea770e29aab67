"""Shapes of users, organisations and tokens."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.files.names import NAME
from registry.schemas.wire import Answer, ModelName, Text, Wire

Scope = Literal["read", "push", "review", "release", "admin"]


class Whoami(Answer):
    """Who a token speaks for."""

    user: str
    admin: bool
    scopes: list[str]
    token: str = Field(description="the token's visible prefix")
    expires_at: datetime | None


class TokenRequest(Wire):
    """Make another token of yours, which can do no more than the one that asks."""

    scopes: list[Scope] = Field(min_length=1, max_length=5)
    label: Annotated[Text, StringConstraints(max_length=100)] = ""
    expires_days: float = Field(90, gt=0, le=365)
    model: ModelName | None = Field(None, description="good for this model alone")


class Token(Answer):
    """A token, without its secret."""

    id: str
    label: str
    prefix: str
    scopes: list[str]
    model: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class NewToken(Token):
    """A token with its secret, which is shown once."""

    token: str


class NamespaceRequest(Wire):
    """Make an organisation."""

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]


class MemberRequest(Wire):
    """Give a role."""

    role: Literal["contributor", "reviewer", "maintainer", "owner"]


class Member(Answer):
    """Who is what; `via` says where the role is held."""

    user: str
    role: str
    via: str


class Namespace(Answer):
    """A user's or an organisation's names, and for its maintainers how much of its quota is used, in bytes."""

    name: str
    kind: Literal["user", "organisation"]
    quota_bytes: int | None
    used_bytes: int | None
    reserved_bytes: int | None = Field(description="announced in uploads that nothing refers to yet")
    open_uploads: int | None
    members: list[Member]
