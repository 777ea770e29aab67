"""Schemas of e-mail: where somebody's news go, and how often."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.wire import Answer, Wire

Rhythm = Literal["at_once", "daily", "off"]
Address = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        max_length=254,
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,10}$",
    ),
]
Signed = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}-[0-9a-f]{64}$")]


class MailSettings(Answer):
    """Where your news go by e-mail."""

    address: str | None
    state: Literal["none", "asked", "sent", "verified", "refused"] = Field(
        description="none: no address; asked: a link goes to it soon; sent: open that link; refused: the mail server "
        "takes nothing for it"
    )
    rhythm: Rhythm
    answer: str = Field(description="what the mail server said last, if it refused a mail")
    sends: bool = Field(description="whether this registry sends mails at all")


class MailRequest(Wire):
    """Have your news sent to an address."""

    address: Address
    rhythm: Rhythm = Field("daily", description="at_once: within minutes; daily: one mail a day, if anything is new")


class MailLink(Wire):
    """Do what a link in a mail is for: confirm an address, or end the mails to it."""

    link: Signed = Field(description="what the address of the link has after link=")
