"""Names of users, organisations and models: which are allowed, and which look alike to a hasty reader."""

import re

from registry.errors import InvalidRequest
from registry.files.names import NAME

RESERVED = frozenset(
    re.split(
        r"\s+",
        """about admin api audit auth base blog change changes channel channels collections crumb datasets device docs
        endpoints false favicon.ico gc healthz help home huggingface inbox jobs join login logout main metrics
        model models namespace namespaces new none notifications null official openapi.json org organisation
        organisations organizations orgs patch patches pricing recipe recipes registry release releases root
        search security settings spaces static status support system tag token tokens true undefined upload
        uploads user users webhook webhooks whoami""",
    )
)
LOOKALIKE = str.maketrans({"i": "1", "l": "1", "o": "0", "s": "5", "z": "2", "-": "", "_": "", ".": ""})


def check_name(name: str, field: str, *, reserved: bool = True) -> None:
    """Refuse a user, organisation or model name that is malformed or, if asked, reserved.

    Raises:
        InvalidRequest: The name is malformed or reserved.
    """
    if not re.fullmatch(NAME, name) or "--" in name or ".." in name or name.endswith(".git"):
        raise InvalidRequest(
            f"'{name}' is not a valid name: use 1 to 96 of a-z 0-9 . _ -, starting and ending with a letter or digit.",
            field=field,
        )
    if reserved and (name in RESERVED or skeleton(name) in {skeleton(word) for word in RESERVED}):
        raise InvalidRequest(f"The name '{name}' is reserved; choose another.", field=field)


def skeleton(name: str) -> str:
    """Return a name without separators, letters that look like digits written as digits, `rn` as `m`, `vv` as `w`."""
    return name.translate(LOOKALIKE).replace("rn", "m").replace("vv", "w") or name
