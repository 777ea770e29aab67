"""Rules: the one table of who may do what, from which every check is made.

A role is held on a model, through the model or its namespace; each includes those before it. On a public model
everybody is `anyone`, and every signed-in user is `contributor`; a private model does not exist for those without a
role. `admin` is a role on the whole server. A token also needs the scope, and an author may do some things to their
own patch without the role.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

SCOPES = ("read", "push", "review", "release", "admin")


class Role(IntEnum):
    """A role on a model or a namespace; a greater one includes the lesser ones."""

    NONE = -1
    ANYONE = 0
    CONTRIBUTOR = 1
    REVIEWER = 2
    MAINTAINER = 3
    OWNER = 4
    ADMIN = 5
    NOBODY = 6

    @property
    def word(self) -> str:
        """The role as it is written in tables and shown to people."""
        return self.name.lower()

    @property
    def one(self) -> str:
        """The role with its article, in a sentence."""
        return f"{'an' if self.word[0] in 'ao' else 'a'} {self.word}"


On = Literal["server", "own", "namespace", "name", "model", "patch"]


@dataclass(frozen=True)
class Rule:
    """The least role for an action, the scope that a token needs, and what the role is held on.

    `server` needs no role but ADMIN or being signed in, `own` is about what belongs to the caller alone, `name` is
    about a model, or a name that nobody has and the caller may give to one. A rule on a `patch` may have `author`: then
    the patch's author is allowed, too.
    """

    role: Role
    scope: str
    on: On
    author: bool = False


MODERATING = ("patch.quarantine", "comment.hide")  # which admins may do on what is mirrored, too
KEPT_BY_READERS = ("model.watch",)  # which changes what somebody keeps for themselves, and not the model
RULES: dict[str, Rule] = {
    # the server, and what belongs to the caller
    "server.read": Rule(Role.ANYONE, "read", "server"),
    "audit.read": Rule(Role.ADMIN, "admin", "server"),
    "gc.run": Rule(Role.ADMIN, "admin", "server"),
    "admin.read": Rule(Role.ADMIN, "admin", "server"),
    "admin.manage": Rule(Role.ADMIN, "admin", "server"),
    "join.ask": Rule(Role.ANYONE, "read", "server"),
    "join.accept": Rule(Role.ANYONE, "admin", "server"),  # by who has the link; a role of one's own needs the scope
    "device.ask": Rule(Role.ANYONE, "read", "server"),
    "publisher.exchange": Rule(Role.ANYONE, "read", "server"),  # by who has an identity token that its issuer signed
    "mail.unsubscribe": Rule(Role.ANYONE, "read", "server"),  # by who has the link of a mail
    "user.read": Rule(Role.CONTRIBUTOR, "read", "own"),
    "account.manage": Rule(Role.CONTRIBUTOR, "admin", "own"),
    "inbox.list": Rule(Role.CONTRIBUTOR, "read", "own"),
    "news.see": Rule(Role.CONTRIBUTOR, "push", "own"),
    "token.manage": Rule(Role.CONTRIBUTOR, "admin", "own"),
    "upload": Rule(Role.CONTRIBUTOR, "push", "own"),
    "upload.part": Rule(Role.ANYONE, "push", "server"),  # by who has its address: the Hub's tools send no token
    "job.cancel": Rule(Role.CONTRIBUTOR, "push", "own"),
    # namespaces
    "namespace.create": Rule(Role.CONTRIBUTOR, "admin", "server"),
    "namespace.read": Rule(Role.CONTRIBUTOR, "read", "namespace"),
    "namespace.manage": Rule(Role.OWNER, "admin", "namespace"),
    "invitation.manage": Rule(Role.OWNER, "admin", "namespace"),
    "upload.for": Rule(Role.MAINTAINER, "push", "namespace"),
    "model.create": Rule(Role.MAINTAINER, "push", "namespace"),
    "name.push": Rule(Role.CONTRIBUTOR, "push", "name"),  # a new model's base, or what a patch is made of
    # models
    "model.read": Rule(Role.ANYONE, "read", "model"),
    "model.audit": Rule(Role.MAINTAINER, "read", "model"),
    "model.manage": Rule(Role.OWNER, "admin", "model"),
    "inbox.read": Rule(Role.CONTRIBUTOR, "read", "model"),
    "model.watch": Rule(Role.CONTRIBUTOR, "push", "model"),
    "report.create": Rule(Role.CONTRIBUTOR, "read", "model"),
    "publisher.manage": Rule(Role.OWNER, "admin", "model"),
    "webhook.manage": Rule(Role.OWNER, "admin", "model"),
    "conflict.ask": Rule(Role.CONTRIBUTOR, "read", "model"),  # model.read is enough to read what has been compared
    "recipe.compose": Rule(Role.CONTRIBUTOR, "push", "model"),
    "recipe.delete": Rule(Role.CONTRIBUTOR, "push", "model"),  # by who asked for the composition, or a maintainer
    "evaluation.add": Rule(Role.CONTRIBUTOR, "push", "model"),
    "card.change": Rule(Role.MAINTAINER, "review", "model"),  # at once; anybody who may push may propose one
    # patches
    "patch.push": Rule(Role.CONTRIBUTOR, "push", "model"),
    "patch.revise": Rule(Role.NOBODY, "push", "patch", author=True),
    "patch.propose": Rule(Role.NOBODY, "push", "patch", author=True),
    "patch.withdraw": Rule(Role.NOBODY, "push", "patch", author=True),
    "patch.comment": Rule(Role.CONTRIBUTOR, "push", "patch"),
    "comment.edit": Rule(Role.CONTRIBUTOR, "push", "patch"),  # by its author
    "comment.delete": Rule(Role.CONTRIBUTOR, "push", "patch"),  # by its author, or a maintainer
    "comment.hide": Rule(Role.MAINTAINER, "push", "patch"),
    "patch.review": Rule(Role.REVIEWER, "review", "patch"),
    "patch.accept": Rule(Role.MAINTAINER, "review", "patch"),
    "patch.reject": Rule(Role.MAINTAINER, "review", "patch"),
    "patch.yank": Rule(Role.MAINTAINER, "review", "patch", author=True),
    "patch.quarantine": Rule(Role.ADMIN, "admin", "patch"),
    # releases and channels
    "release.cut": Rule(Role.MAINTAINER, "release", "model"),
    "release.publish": Rule(Role.MAINTAINER, "release", "model"),
    "release.pin": Rule(Role.MAINTAINER, "release", "model"),
    "release.yank": Rule(Role.MAINTAINER, "release", "model"),
    "build.report": Rule(Role.MAINTAINER, "release", "model"),
    "channel.move": Rule(Role.MAINTAINER, "release", "model"),
    "channel.protect": Rule(Role.OWNER, "release", "model"),
}


def may_be_mirrored(action: str, *, admin: bool) -> bool:
    """Say whether an action is allowed on what is mirrored: it changes nothing, or an admin takes something down."""
    return RULES[action].scope == "read" or action in KEPT_BY_READERS or (admin and action in MODERATING)
