"""Words in a chart: on one line, cut in the middle, and how wide they are.

A page cannot ask the browser how wide a text will be, so widths are those of DejaVu Sans, the widest of the fonts that
style.css names: a label may leave room, and never runs into its neighbour.
"""

import unicodedata

from registry.documents.markdown import line

LONGEST = 160  # characters of a label or a note on hover and in tables; tensor names may have 64 KiB
UNIT = 24  # characters of a unit
SIZE = 13  # of the type, in the units of the drawing; as in charts.css
_SHARES = {sign: share for signs, share in ((" !'(),./:;I[]`fijlrt|·", 0.4), ("_ckszxvy-", 0.58)) for sign in signs}
_SHARES |= dict.fromkeys("#+<=>^wCGHNOQ~×≈–÷", 0.85) | dict.fromkeys("%&@MW—…→m", 1.0)


def one_line(text: str, most: int = LONGEST) -> str:
    """Put a stranger's words on one line, without controls, and cut what is too long in the middle."""
    if len(text) > 2 * most:  # before every sign of it is looked at
        text = text[:most] + text[-most:]
    text = line(text)
    return text if len(text) <= most else text[: most // 2] + "…" + text[-((most - 1) // 2) :]


def width(text: str) -> float:
    """Return about how wide a text is, in units of the drawing."""
    return SIZE * sum(map(_share, text))


def fit(text: str, room: float) -> str:
    """Return as much of both ends of a text as there is room for."""
    text = one_line(text)
    if width(text) <= room + 0.1:  # sums of fractions are not exact
        return text
    head, tail, left = "", "", room - width("…")
    for place in range(len(text)):
        sign = text[-1 - place // 2] if place % 2 else text[place // 2]
        left -= SIZE * _share(sign)
        if left < 0:
            break
        head, tail = (head, sign + tail) if place % 2 else (head + sign, tail)
    return f"{head}…{tail}"


def slug(text: str) -> str:
    """Make a word for an id or a class of a text."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in text[:64].lower()).strip("-") or "x"


def address(href: str | None) -> str | None:
    """Return an address if it is one of this server, and so neither a script nor somebody else's page."""
    if href is None or not href.startswith(("/", "?", "#")) or href.startswith(("//", "/\\")):
        return None
    return href if len(href) <= 2048 and href.isprintable() else None


def _share(sign: str) -> float:
    """Return how wide a sign is, as a share of the size of the type."""
    if sign in _SHARES:
        return _SHARES[sign]
    if unicodedata.east_asian_width(sign) in "WF":
        return 1.0
    return 0.75 if sign.isupper() or not sign.isascii() else 0.645
