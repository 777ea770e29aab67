"""Schemas of users, organisations, members and tokens."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.files.names import NAME
from registry.schemas.wire import Answer, ModelName, Text, Wire

Scope = Literal["read", "push", "review", "release", "admin"]


class Whoami(Answer):
    """The user of a token, and what the token allows."""

    user: str
    admin: bool
    scopes: list[str]
    token: str = Field(description="the token's visible prefix")
    expires_at: datetime | None


class TokenRequest(Wire):
    """Create another token of yours, which can do no more than the one that you use."""

    scopes: list[Scope] = Field(min_length=1, max_length=5)
    label: Annotated[Text, StringConstraints(max_length=100)] = ""
    expires_days: float = Field(90, gt=0, le=365)
    model: ModelName | None = Field(None, description="limit the token to this model")


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
    """Create an organisation."""

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]


class MemberRequest(Wire):
    """Give a user a role."""

    role: Literal["contributor", "reviewer", "maintainer", "owner"]


class Member(Answer):
    """A member and their role; `via` is the model or namespace that the role is held on."""

    user: str
    role: str
    via: str


class Namespace(Answer):
    """A user or an organisation; its maintainers also see how much of its quota is used, in bytes."""

    name: str
    kind: Literal["user", "organisation"]
    quota_bytes: int | None
    used_bytes: int | None
    reserved_bytes: int | None = Field(description="bytes of announced uploads that are not used yet")
    open_uploads: int | None
    members: list[Member]
