"""Trailers: lines `Key: value` at the end of a commit's description, by which tools of the Hub say how to diff.

    Drop-Bottom: 0.9
    Exclude: lm_head.weight
    Task: sql
    License: apache-2.0

They are read as git reads trailers (git-interpret-trailers): the last paragraph, if all its lines are such lines. Keys
that are not known here, such as Signed-off-by, are left to others.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidRequest

LINE = re.compile(r"([A-Za-z][A-Za-z-]*):[ \t]*(.*)")
WORDS = {
    "drop-bottom": "drop_bottom",
    "drop-top": "drop_top",
    "granularity": "granularity",
    "value-dtype": "value_dtype",
    "strip-prefix": "strip_prefix",
    "tuned-from": "tuned_from",
    "task": "task",
    "license": "license",
    "licence": "license",
}
OF_MASK = ("drop_bottom", "drop_top", "granularity", "value_dtype")
LISTS = {"include": "include", "exclude": "exclude"}
SWITCHES = {"shared-only": "shared_only", "shared-rows": "shared_rows", "companion": "companion"}
LONGEST = 500  # characters of a value
MOST = 100  # lines


def read_trailers(text: str) -> dict[str, Any]:
    """Return what the trailers of a description say, by the names of a diff's options.

    Raises:
        InvalidRequest: A value is not valid; the message names the line.
    """
    found: dict[str, Any] = {}
    paragraph = re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").strip())[-1].splitlines()
    matches = [LINE.fullmatch(line.strip()) for line in paragraph]
    if not all(matches) or len(matches) > MOST:
        return found
    for match in matches:
        assert match is not None
        key, value = match[1].lower(), match[2].strip()
        if key not in WORDS and key not in LISTS and key not in SWITCHES:
            continue
        if not value or len(value) > LONGEST or not value.isprintable():
            raise InvalidRequest(f"The line '{match[1]}:' has no value that can be read.", field=match[1])
        if key in LISTS:
            found.setdefault(LISTS[key], []).append(value)
        elif key in SWITCHES:
            if value.lower() not in ("yes", "no", "true", "false"):
                raise InvalidRequest(f"The line '{match[1]}: {value}' must say yes or no.", field=match[1])
            found[SWITCHES[key]] = value.lower() in ("yes", "true")
        else:
            found[WORDS[key]] = value
    return found


def from_options(sentence: str) -> list[str]:
    """Return the trailers that say what the options in a sentence's last backticks do: `--shared-only` as a line.

    Returns:
        Lines like `Shared-Only: yes`; none if there are no options there, or one that has no trailer.
    """
    quoted = re.findall(r"`(--[^`]+)`", sentence)
    try:
        words = iter(shlex.split(quoted[-1]) if quoted else ())
    except ValueError:
        return []
    lines = []
    for word in words:
        key = word.removeprefix("--")
        value = "yes" if key in SWITCHES else next(words, "")
        if key not in {**SWITCHES, **LISTS, **WORDS} or not value or not value.isprintable():
            return []
        lines.append(f"{key.title()}: {value}")
    return lines


def of_mask(options: Mapping[str, Any]) -> dict[str, str]:
    """Return those of the options that say how a mask is chosen and its values are stored."""
    return {name: options[name] for name in OF_MASK if name in options}
