"""Letters: the subjects and texts of e-mails, in plain text, without anything that a stranger has written but names."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One piece of news: a sentence, and the address of the page about it."""

    sentence: str
    url: str


def confirmation(host: str, user: str, url: str, days: int) -> tuple[str, str]:
    """Return subject and text of the mail that asks whether an address belongs to a user.

    Args:
        host: The registry's.
        user: The name of the user.
        url: The link that confirms it.
        days: How long the link is good for.
    """
    text = (
        f"{user} at {host} wants news by e-mail at this address. If that is you, sign in as {user} and confirm it:\n\n"
        f"{url}\n\n"
        f"The link is good for {days} days. If it is not you, do nothing: no more is sent to this address.\n"
    )
    return f"Confirm your address for {host}", text


def news(
    host: str, user: str, sections: Sequence[tuple[str, Sequence[Item]]], more: bool, links: dict[str, str]
) -> tuple[str, str]:
    """Return subject and text of the mail with what is new for a user.

    Args:
        host: The registry's.
        user: The name of the user.
        sections: Headings, each with its news; none is empty.
        more: Whether there is more than what is listed.
        links: The addresses of `inbox`, `settings` and `unsubscribe`.
    """
    items = [item for _, listed in sections for item in listed]
    subject = f"{items[0].sentence} on {host}" if len(items) == 1 else f"{len(items)} news on {host}"
    parts = [f"Hello {user},"]
    for heading, listed in sections:
        parts.append("\n".join([f"{heading}:", *(f"* {item.sentence}\n  {item.url}" for item in listed)]))
    rest = "There is more than what fits here. " if more else ""
    parts.append(f"{rest}All that waits for you: {links['inbox']}")
    parts.append(f"-- \nChange how often you are told: {links['settings']}\nUnsubscribe: {links['unsubscribe']}\n")
    return subject, "\n\n".join(parts)
