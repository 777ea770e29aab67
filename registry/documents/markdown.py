"""Escaping of strangers' text in our Markdown: one line, shown as it is written, without links."""

import re
import unicodedata

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, line and paragraph separators
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # reorder what follows


def line(text: str) -> str:
    """Put a text on one line, without control characters; the result is not safe as Markdown."""
    kept = (" " if unicodedata.category(sign) in _BREAKING or sign in _BIDI else sign for sign in text)
    return re.sub(r"\s+", " ", "".join(kept)).strip()


def inline(text: str) -> str:
    """Escape a text for a line, a list item or a table cell."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", line(text))
    return re.sub(r"(?i)\bwww\.", r"www\\.", escaped.replace("://", ":\\//"))  # otherwise these would become links


def code(text: str) -> str:
    """Escape a text as code between backticks."""
    return f"`{line(text).replace('`', '')}`"
