"""How things are written on a command line: NS/NAME, NS/NAME@REF, NS/NAME#N[.R], N[.R][:WEIGHT], FILE[:WEIGHT]."""

import re
from pathlib import Path

from registry.errors import InvalidRequest
from registry.files.names import MODEL

_VERSION = r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(?:-[0-9A-Za-z.-]{1,40})?"
_DECIMAL = r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?"  # schemas.Decimal


def check_model(text: str) -> str:
    """Return the name of a model, NS/NAME, or say what is wrong with it."""
    if not re.fullmatch(MODEL, text):
        raise InvalidRequest(
            f"{text!r} is not the name of a model: write NS/NAME in lowercase letters, digits, dots and dashes.",
            field="model",
        )
    return text


def parse_revision(text: str) -> tuple[str, str]:
    """Split NS/NAME[@REF]; REF is `main`, what the registry gives when nothing is said, when left out."""
    model, at, ref = text.partition("@")
    check_model(model)
    if not at:
        return model, "main"
    ref = ref.removeprefix("sha256:")
    if is_digest(ref.lower()):
        return model, ref.lower()
    if not re.fullmatch(rf"{_VERSION}|[a-z](?:[a-z0-9-]{{0,30}}[a-z0-9])?", ref) or re.fullmatch(r"[0-9a-f]{7}", ref):
        raise InvalidRequest(
            f"{ref!r} names no revision: write a version like 1.2.0, a channel like stable, base, or 8 or more digits "
            "of a recipe digest.",
            field="ref",
        )
    return model, ref


def is_digest(ref: str) -> bool:
    """Say whether a reference is a recipe digest, or 8 or more of its first digits."""
    return re.fullmatch(r"[0-9a-f]{8,64}", ref) is not None


def is_version(ref: str) -> bool:
    """Say whether a reference is the version of a release."""
    return re.fullmatch(_VERSION, ref) is not None


def parse_patch(text: str) -> tuple[str, int, int | None] | None:
    """Split NS/NAME#N[.R]; None when the text is not of that form (it may be a file)."""
    found = re.fullmatch(rf"({MODEL})#([0-9]{{1,9}})(?:\.([0-9]{{1,9}}))?", text)
    return (found[1], int(found[2]), int(found[3]) if found[3] else None) if found else None


def parse_subject(text: str) -> tuple[str, int | None]:
    """Split NS/NAME[#N] into a model and the number of a patch, if one is named."""
    if "#" not in text:
        return check_model(text), None
    model, _, number = text.rpartition("#")
    return check_model(model), parse_number(number)


def parse_item(text: str) -> tuple[int, str, int | None]:
    """Split N[.R][:WEIGHT], or the same after #, into number, weight and revision."""
    found = re.fullmatch(rf"#?([0-9]{{1,9}})(?:\.([0-9]{{1,9}}))?(?::({_DECIMAL}))?", text)
    if not found or int(found[1]) < 1 or (found[2] and int(found[2]) < 1):
        raise InvalidRequest(f"{text!r} is not a patch: write its number, or N:WEIGHT like 3:0.5.", field="patches")
    return int(found[1]), found[3] or "1", int(found[2]) if found[2] else None


def parse_choice(text: str) -> tuple[int, int | None]:
    """Split N[.R] into the number of a patch and of its revision."""
    if ":" in text:
        raise InvalidRequest(f"{text!r} is not a patch: write its number, or N.R like 3.2.", field="patches")
    number, _, revision = parse_item(text)
    return number, revision


def parse_number(text: str) -> int:
    """Read the number of a patch, N or #N."""
    found = re.fullmatch(r"#?([0-9]{1,9})", text)
    if not found or int(found[1]) < 1:
        raise InvalidRequest(f"{text!r} is not the number of a patch: write it like 12.", field="patch")
    return int(found[1])


def parse_file(text: str) -> tuple[Path, str]:
    """Split FILE[:WEIGHT]; a file whose name ends like a weight wins over the weight."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists() or not re.fullmatch(_DECIMAL, weight):
        return Path(text), "1"
    return Path(path), weight
