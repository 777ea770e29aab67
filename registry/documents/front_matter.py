"""The YAML at the head of a README.md, as JSON: what the Hub calls `cardData`.

The words are strangers'. They are bounded before they are read, and parsed to plain values. Refused is what is more
work than its length says: aliases, a few lines of which stand for gigabytes, and nests, whose scanner takes half a
minute for thirty thousand brackets.
"""

import datetime
import math
import re
from functools import lru_cache
from typing import Any

FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
MOST_CHARACTERS = 32 * 2**10
MOST_NESTED = 12
MOST_EVENTS = 2**13
MOST_BITS = 64  # a number with thousands of digits cannot be written as JSON
BROKEN = (ValueError, LookupError, ArithmeticError, AttributeError, TypeError, RecursionError)  # `!!bool no bool`


@lru_cache(maxsize=512)
def read_front_matter(card: str) -> dict[str, Any]:
    """Return a card's front matter as JSON has it; empty when there is none that can be read.

    Args:
        card: The text of a README.md.

    Returns:
        Strings, numbers, lists and objects; shared by all callers, who must not change it.
    """
    import yaml  # brought by huggingface_hub; the one place that reads it

    found = FRONT.match(card[: MOST_CHARACTERS + 8])
    if found is None:
        return {}
    try:
        nested = 0
        for count, event in enumerate(yaml.parse(found[1], yaml.SafeLoader)):  # as far as nothing is wrong
            nested += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or nested > MOST_NESTED or count > MOST_EVENTS:
                return {}
        plain = _plain(yaml.safe_load(found[1]))
    except (yaml.YAMLError, *BROKEN):
        return {}
    return plain if isinstance(plain, dict) else {}


def words(value: Any) -> list[str]:
    """Return what a field of front matter says that may be one word or a list of them."""
    listed = value if isinstance(value, list) else [value]
    return [word for word in listed if isinstance(word, str) and word]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it.

    Raises:
        ValueError: a number is too large.
    """
    if isinstance(value, dict):
        return {_text(key): _plain(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_plain(found) for found in value]
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError("too large a number")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else _text(value)


def _text(value: Any) -> str:
    """Return a value as text that can be written: YAML can spell half of a surrogate pair."""
    return str(value).encode("utf-8", "replace").decode("utf-8")
