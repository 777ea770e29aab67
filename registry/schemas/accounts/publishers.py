"""Schemas of trusted publishing: workflows elsewhere that may push to a model, and the exchange of their identity."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from registry.schemas.accounts.joining import UserName
from registry.schemas.wire import Answer, ModelName, Wire

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_:./-]*$", max_length=60)]
Value = Annotated[str, StringConstraints(pattern=r"^[ -~]+$", max_length=300)]
Issuer = Annotated[str, StringConstraints(pattern=r"^https?://[^?#\s]+$", max_length=500)]
Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+$", max_length=200)]
Workflow = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]+\.ya?ml$", max_length=200)]
TIMES = {"iss", "aud", "exp", "iat", "nbf", "jti"}  # which are checked in any case, or change from token to token


class PublisherRequest(Wire):
    """Let a workflow push to a model, as a program of this name."""

    kind: Literal["github", "gitlab", "oidc"]
    user: UserName = Field(description="the program as which it pushes: a name that nobody has")
    repository: Repository | None = Field(None, description="org/name at GitHub, or the path of a project at GitLab")
    workflow: Workflow | None = Field(
        None, description="the file: like train.yml in .github/workflows, or .gitlab-ci.yml"
    )
    environment: Value | None = Field(None, description="only in this environment of the repository")
    ref: Value | None = Field(None, description="only of this ref: refs/heads/main at GitHub, main at GitLab")
    issuer: Issuer | None = Field(None, description="who signs, if it is another GitLab, or of the kind oidc")
    claims: dict[Name, Value] = Field(
        default_factory=dict, max_length=20, description="of the kind oidc: each claim that has to be there, sub first"
    )

    @model_validator(mode="after")
    def check_kind(self) -> Self:
        """Refuse what does not go with the kind."""
        named = {"repository": self.repository, "workflow": self.workflow}
        if self.kind == "oidc":
            if self.issuer is None or "sub" not in self.claims:
                raise ValueError("a publisher of the kind oidc needs an issuer, and the claim sub")
            if any(value is not None for value in (*named.values(), self.environment, self.ref)):
                raise ValueError("a publisher of the kind oidc is described by its claims alone")
            if wrong := sorted(TIMES & set(self.claims)):
                raise ValueError(f"the claim {wrong[0]} is checked in any case, and cannot be chosen")
        else:
            if missing := [name for name, value in named.items() if value is None]:
                raise ValueError(f"a publisher of the kind {self.kind} needs a {missing[0]}")
            if self.claims or (self.kind == "github" and self.issuer is not None):
                raise ValueError(f"a publisher of the kind {self.kind} has no claims of its own choice")
        return self

    def wanted(self) -> dict[str, str]:
        """Return the claims that have to be there, by name; `workflow` stands for the one that names the file."""
        if self.kind == "oidc":
            return dict(self.claims)
        name = "repository" if self.kind == "github" else "project_path"
        given = {name: self.repository, "workflow": self.workflow, "environment": self.environment, "ref": self.ref}
        return {key: value for key, value in given.items() if value is not None}


class Publisher(Answer):
    """A workflow that may push to a model."""

    id: str
    kind: Literal["github", "gitlab", "oidc"]
    user: str
    issuer: str
    claims: dict[str, str]
    pinned: dict[str, str] = Field(description="ids kept from its first token, which later ones must have")
    created_by: str | None
    created_at: datetime
    used_at: datetime | None


class IdentityExchange(Wire):
    """Exchange the identity token of a workflow for a token that may push to one model."""

    model: ModelName
    token: Annotated[str, StringConstraints(min_length=10, max_length=16384, pattern=r"^[A-Za-z0-9_.-]+$")]


class PublishingToken(Answer):
    """A token of a workflow, which may read and push to one model, for an hour."""

    user: str
    model: str
    token: str
    expires_at: datetime
