"""Files of a form: upload.js sends them first, and names them in the form by digest and path."""

import re

from fastapi import Request

from registry.errors import InvalidRequest
from registry.files.folders import PICKLES
from registry.server.hub.pushing import LEFTOVERS
from registry.server.pages.frame import forms

FILE = re.compile(r"([0-9a-f]{64}) (.{1,1000})")
PICKLED = "|".join(
    "".join(f"[{one}{one.upper()}]" if one.isalpha() else re.escape(one) for one in suffix) for suffix in PICKLES
)  # in any case, as `is_pickle` has it; not every browser knows (?i:…)
NOT_SENT = rf"{LEFTOVERS.pattern}|(?:{PICKLED})$"
"""Paths that no form sends: hidden, left of training, or pickled. A regular expression of JavaScript's, too."""


def sent_files(request: Request) -> dict[str, str]:
    """Return the sha256 by path of the files that a form came with.

    Raises:
        InvalidRequest: There are none, which is so without scripts, or a field is not as upload.js writes it.
    """
    files: dict[str, str] = {}
    for value in forms.fields(request).get("file", []):
        if (match := FILE.fullmatch(value)) is None:
            raise InvalidRequest("A file of this form is not a digest and a path; open the page again.", field="file")
        files[match[2]] = match[1]
    if not files:
        raise InvalidRequest(
            "Choose files first. They are sent by a script of this page; without scripts, use the command below.",
            field="file",
        )
    return files
