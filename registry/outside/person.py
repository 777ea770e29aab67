"""Persons: what a provider says of somebody who signs in by it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Somebody whom a provider knows.

    Args:
        issuer: The provider.
        subject: What it calls them, for ever.
        name: A name that they have there, which may change.
        display_name: What to call them, or empty.
        groups: The groups that they are in.
    """

    issuer: str
    subject: str
    name: str
    display_name: str
    groups: frozenset[str]
