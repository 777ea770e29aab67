"""Schemas of sign-ins: sessions of browsers, linked accounts, and programs that are let in by a code."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.accounts.joining import Line, Secret
from registry.schemas.wire import Answer, Wire

UserCode = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z]{4}[- ]?[A-Za-z]{4}$")]


class BrowserSession(Answer):
    """A browser in which you are signed in."""

    id: str
    agent: str = Field(description="what the browser says of itself")
    by: str = Field(description="the token that was entered, or the way in which you signed in without one")
    current: bool = Field(description="whether it sent this request")
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime


class LinkedAccount(Answer):
    """An account at a provider by which you sign in."""

    id: str
    issuer: str
    name: str
    joined: bool = Field(description="whether your account came by it; then it stays linked")
    created_at: datetime
    used_at: datetime


class Sessions(Answer):
    """Where you are signed in, and by what you may sign in."""

    sessions: list[BrowserSession]
    accounts: list[LinkedAccount]


class DeviceRequest(Wire):
    """Ask for codes by which somebody lets a program in."""

    label: Line = Field("", description="what the program is, for the person who decides")


class DeviceCodes(Answer):
    """The codes of a program: it keeps one, and shows the other with the address."""

    device_code: str
    user_code: str
    url: str = Field(description="where a person decides")
    interval: int = Field(description="seconds between two questions whether they did")
    expires_in: int


class DeviceQuestion(Wire):
    """Ask whether somebody let the program in."""

    device_code: Secret


class DeviceAnswer(Answer):
    """Whether somebody let the program in; if so, its token, which is shown once."""

    state: Literal["waiting", "approved"]
    user: str | None
    token: str | None


class DeviceDecision(Wire):
    """Let a program in, or turn it away."""

    user_code: UserCode
    approve: bool


class Device(Answer):
    """A program that waits, or about which you decided."""

    label: str
    state: Literal["waiting", "approved", "denied"]
    created_at: datetime
