"""How things are written on a command line: NS/NAME, NS/NAME@REF, NS/NAME#N, N[:WEIGHT], FILE[:WEIGHT]."""

import re
from pathlib import Path

from registry.errors import InvalidRequest

_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?"  # schemas.NAME, which would load pydantic
_DECIMAL = r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?"  # schemas.Decimal


def check_model(text: str) -> str:
    """Return the name of a model, NS/NAME, or say what is wrong with it."""
    if not re.fullmatch(f"{_NAME}/{_NAME}", text):
        raise InvalidRequest(
            f"{text!r} is not the name of a model: write NS/NAME in lowercase letters, digits, dots and dashes.",
            field="model",
        )
    return text


def parse_revision(text: str) -> tuple[str, str]:
    """Split NS/NAME[@REF]; REF is `base` when left out."""
    model, at, ref = text.partition("@")
    check_model(model)
    if not at:
        return model, "base"
    ref = ref.removeprefix("sha256:").lower()
    if ref != "base" and not re.fullmatch(r"[0-9a-f]{8,64}", ref):
        raise InvalidRequest(
            f"{ref!r} names no revision: write base, a recipe digest, or 8 or more of its first digits.", field="ref"
        )
    return model, ref


def parse_patch(text: str) -> tuple[str, int] | None:
    """Split NS/NAME#N; None when the text is not of that form (it may be a file)."""
    found = re.fullmatch(rf"({_NAME}/{_NAME})#([0-9]{{1,10}})", text)
    return (found[1], int(found[2])) if found else None


def parse_item(text: str) -> tuple[int, str]:
    """Split N[:WEIGHT] or #N[:WEIGHT] into number and weight."""
    found = re.fullmatch(rf"#?([0-9]{{1,10}})(?::({_DECIMAL}))?", text)
    if not found or not 1 <= int(found[1]) < 2**31:
        raise InvalidRequest(f"{text!r} is not a patch: write its number, or N:WEIGHT like 3:0.5.", field="patches")
    return int(found[1]), found[2] or "1"


def parse_file(text: str) -> tuple[Path, str]:
    """Split FILE[:WEIGHT]; a file whose name ends like a weight wins over the weight."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists() or not re.fullmatch(_DECIMAL, weight):
        return Path(text), "1"
    return Path(path), weight
