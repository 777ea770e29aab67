"""Commits as the Hub's tools send them: lines of JSON, the first with the texts, each other with a file.

{"key": "header", "value": {"summary": ..., "description": ..., "parentCommit": ...}}
{"key": "file", "value": {"path": ..., "content": <base64>, "encoding": "base64"}}
{"key": "lfsFile", "value": {"path": ..., "algo": "sha256", "oid": ..., "size": ...}}
{"key": "deletedFile" | "deletedFolder", "value": {"path": ...}}
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from registry import schemas
from registry.errors import InvalidRequest
from registry.files.names import HEX256
from registry.server.edge.bodies import load_json
from registry.services.hub.pushed_files import MOST_FILES
from registry.services.hub.pushes import PushedCommit, read_options

COMMIT_BYTES = 48 * 2**20  # of a whole commit, whose small files are in it as base64
REGULAR_BYTES = 64 * 1024  # larger files go by Git LFS
SUMMARY, UNTITLED = 200, "A fine-tuned model"
NO_DIGEST = "0" * 64


@dataclass
class Sent:
    """A commit as it was sent: texts, contents of small files, and sha256 of large ones, by path.

    `options` are those of the diff and the patch that a form had fields for; the Hub's tools write them as trailers.
    """

    title: str = UNTITLED
    message: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """What it changes; paths that it deletes end in a slash."""
        return [*self.contents, *self.large, *(f"{path.rstrip('/')}/" for path in self.deleted)]

    @property
    def size(self) -> int:
        """Bytes of its texts."""
        return len(self.title.encode()) + len(self.message.encode())


def read_commit(raw: bytes) -> Sent:
    """Read a commit.

    Raises:
        InvalidRequest, TooLarge: The bytes are no such lines, or too many; the message names the line.
    """
    lines = raw.split(b"\n")
    if len(lines) > MOST_FILES + 2:
        raise InvalidRequest(f"A commit has at most {MOST_FILES} files here.", field="body")
    sent = Sent()
    for number, line in enumerate(lines, 1):
        if line.strip():
            item = load_json(line)
            key, value = (item.get("key"), item.get("value")) if isinstance(item, dict) else (None, None)
            if not isinstance(value, dict):
                raise InvalidRequest(f"Line {number} of the commit is not `key` and `value`.", field="body")
            read_line(sent, key, value)
    if sent.contents.keys() & sent.large.keys():
        raise InvalidRequest("The commit has a file twice.", field=min(sent.contents.keys() & sent.large.keys()))
    return sent


def read_opening(given: Any, full_name: str) -> Sent:
    """Read what opens a pull request.

    Raises:
        InvalidRequest: It would open something else, or has no title.
    """
    given = given if isinstance(given, dict) else {}
    if given.get("pullRequest") is not True:
        raise InvalidRequest(
            f"A discussion here is about a patch: comment on one with `crumb comment {full_name} N -m TEXT`, or push "
            f"one with `crumb push TUNED {full_name} -m TITLE`, or by a pull request."
        )
    return Sent(first_line(text(given, "title")), text(given, "description", ""))


def read_line(sent: Sent, key: Any, value: dict[str, Any]) -> None:
    """Add a line to a commit.

    Raises:
        InvalidRequest: The line is not valid.
    """
    if key == "header":
        sent.title, sent.message = first_line(text(value, "summary")), text(value, "description", "")
        return
    path = text(value, "path")
    if path in sent.contents or path in sent.large:
        raise InvalidRequest(f"The commit has {path} twice.", field=path[:200])
    if key == "file":
        try:
            content = base64.b64decode(text(value, "content", ""), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest(f"The content of {path} is not base64.", field=path[:200]) from None
        sent.contents[path] = content
    elif key == "lfsFile":
        oid = text(value, "oid")
        if not re.fullmatch(HEX256, oid):
            raise InvalidRequest(f"The oid of {path} is not a sha256 in lowercase hex.", field=path[:200])
        sent.large[path] = oid
    elif key in ("deletedFile", "deletedFolder"):
        sent.deleted.append(f"{path.rstrip('/')}/" if key == "deletedFolder" else path)
    else:
        raise InvalidRequest(f"This registry does not know what {str(key)[:60]!r} in a commit is.", field="key")


def text(value: dict[str, Any], name: str, default: str | None = None) -> str:
    """Return a text of a line.

    Raises:
        InvalidRequest: It is missing, or no text that a database takes.
    """
    found = value.get(name, default)
    if not isinstance(found, str) or "\0" in found:
        raise InvalidRequest(f"The commit needs `{name}` as text.", field=name)
    return found


def first_line(summary: str) -> str:
    """Return a title from a summary, which has at least one character."""
    line = " ".join((summary.strip().splitlines() or [""])[0].split())
    return (line if len(line) <= SUMMARY else f"{line[: SUMMARY - 1]}…") or UNTITLED


def describe(sent: Sent, files: dict[str, str]) -> PushedCommit:
    """Return a commit with what its description says of how to diff, and with the sha256 of all its files.

    Raises:
        InvalidRequest: What it says is not valid; the message names it.
    """
    options = read_options(sent.message) | sent.options
    asked: dict[str, Any] = {"sha256": NO_DIGEST, "title": sent.title, "message": sent.message}
    asked |= {name: options[name] for name in ("task", "license") if name in options}
    try:
        schemas.PatchRequest.model_validate(asked)
    except ValidationError as why:
        first = why.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"The {place} of this commit is not valid: {first['msg']}.", field=place) from None
    return PushedCommit(sent.title, sent.message, options, files, sent.deleted)
