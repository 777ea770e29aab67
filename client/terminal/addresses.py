"""Addresses on a command line: NS/NAME, NS/NAME@REF, NS/NAME#N[.R], N[.R][:WEIGHT], FILE[:WEIGHT]."""

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from registry.errors import InvalidRequest
from registry.files.names import MODEL

_VERSION = r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(?:-[0-9A-Za-z.-]{1,40})?"
_DECIMAL = r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?"  # schemas.Decimal


def check_model(text: str) -> str:
    """Return the name of a model, NS/NAME.

    Raises:
        InvalidRequest: The text is not such a name.
    """
    if not re.fullmatch(MODEL, text):
        raise InvalidRequest(
            f"{text!r} is not the name of a model: write NS/NAME in lowercase letters, digits, dots and dashes.",
            field="model",
        )
    return text


def parse_snapshot(text: str) -> tuple[str, str]:
    """Split NS/NAME[@REF] into model and reference; `main`, the registry's choice, when REF is left out.

    Raises:
        InvalidRequest: The model's name or the reference is malformed.
    """
    model, at, ref = text.partition("@")
    check_model(model)
    if not at:
        return model, "main"
    ref = ref.removeprefix("sha256:")
    if is_digest(ref.lower()):
        return model, ref.lower()
    if not re.fullmatch(rf"{_VERSION}|[a-z](?:[a-z0-9-]{{0,30}}[a-z0-9])?", ref) or re.fullmatch(r"[0-9a-f]{7}", ref):
        raise InvalidRequest(
            f"{ref!r} is not a reference: write a version like 1.2.0, a channel like stable, base, or 8 or more digits "
            "of a recipe digest.",
            field="ref",
        )
    return model, ref


def parse_pulled(text: str) -> tuple[str, str]:
    """Split NS/NAME[@REF] or NS/NAME#N[.R] into model and reference; a patch, also @refs/pr/N, is `#N[.R]`.

    Raises:
        InvalidRequest: The model's name or the reference is malformed.
    """
    if match := re.fullmatch(r"([^#@]+)(?:#|@refs/pr/)([1-9][0-9]{0,8}(?:\.[1-9][0-9]{0,8})?)", text):
        return check_model(match[1]), f"#{match[2]}"
    return parse_snapshot(text)


def page_of(address: str | None) -> str:
    """Return the path of the page about NS/NAME[#N|@REF]; of the registry's first page when None.

    Raises:
        InvalidRequest: The address is malformed.
    """
    if address is None:
        return "/"
    model, ref = parse_pulled(address)
    if ref.startswith("#"):
        return f"/{model}/patches/{ref[1:].partition('.')[0]}"
    if ref in ("main", "base"):
        return f"/{model}"
    kind = "recipes" if is_digest(ref) else "releases" if is_version(ref) else "channels"
    return f"/{model}/{kind}/{ref}"


def is_digest(ref: str) -> bool:
    """Return whether a reference is a recipe digest, or 8 or more of its first digits."""
    return re.fullmatch(r"[0-9a-f]{8,64}", ref) is not None


def is_version(ref: str) -> bool:
    """Return whether a reference is the version of a release."""
    return re.fullmatch(_VERSION, ref) is not None


def parse_patch(text: str) -> tuple[str, int, int | None] | None:
    """Split NS/NAME#N[.R] into model, number and revision; None for any other text, which may be a file."""
    match = re.fullmatch(rf"({MODEL})#([0-9]{{1,9}})(?:\.([0-9]{{1,9}}))?", text)
    return (match[1], int(match[2]), int(match[3]) if match[3] else None) if match else None


def parse_subject(text: str) -> tuple[str, int | None]:
    """Split NS/NAME[#N] into a model and the number of a patch, if there is one."""
    if "#" not in text:
        return check_model(text), None
    model, _, number = text.rpartition("#")
    return check_model(model), parse_number(number)


def parse_item(text: str) -> tuple[int, str, int | None]:
    """Split N[.R][:WEIGHT], or the same after #, into number, weight and revision.

    Raises:
        InvalidRequest: The text is not of that form.
    """
    match = re.fullmatch(rf"#?([0-9]{{1,9}})(?:\.([0-9]{{1,9}}))?(?::({_DECIMAL}))?", text)
    if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise InvalidRequest(f"{text!r} is not a patch: write its number, or N:WEIGHT like 3:0.5.", field="patches")
    return int(match[1]), match[3] or "1", int(match[2]) if match[2] else None


def parse_items(
    texts: Sequence[str], where: Sequence[str] | None
) -> list[tuple[int, str, int | None, list[tuple[str, str]]]]:
    """Read patches with their weights, and the factors by tensor that belong to them.

    Args:
        texts: N[.R][:WEIGHT] each.
        where: N:GLOB=FACTOR each, with the number of one of the patches.

    Raises:
        InvalidRequest: A text is not of its form, or names none of the patches.
    """
    items = [parse_item(text) for text in texts]
    factors: dict[int, list[tuple[str, str]]] = {number: [] for number, _, _ in items}
    for text in where or ():
        number, glob, factor = parse_factor(text)
        if number not in factors:
            raise InvalidRequest(f"--where {text!r} is for #{number}, which is not among the patches.", field="where")
        factors[number].append((glob, factor))
    return [(number, weight, revision, factors[number]) for number, weight, revision in items]


def parse_factor(text: str) -> tuple[int, str, str]:
    """Split N:GLOB=FACTOR into the number, the glob of tensor names, and the decimal.

    Raises:
        InvalidRequest: The text is not of that form.
    """
    match = re.fullmatch(rf"#?([0-9]{{1,9}}):(.+)=({_DECIMAL})", text)
    if not match or int(match[1]) < 1:
        raise InvalidRequest(
            f"--where {text!r} is not a factor by tensor: write N:GLOB=FACTOR, like '3:layers.0.*=0.5'.", field="where"
        )
    return int(match[1]), match[2], match[3]


def parse_choice(text: str) -> tuple[int, int | None]:
    """Split N[.R] into the number of a patch and of its revision.

    Raises:
        InvalidRequest: The text is not of that form.
    """
    if ":" in text:
        raise InvalidRequest(f"{text!r} is not a patch: write its number, or N.R like 3.2.", field="patches")
    number, _, revision = parse_item(text)
    return number, revision


def parse_number(text: str) -> int:
    """Return the number of a patch, written N or #N.

    Raises:
        InvalidRequest: The text is not of that form.
    """
    match = re.fullmatch(r"#?([0-9]{1,9})", text)
    if not match or int(match[1]) < 1:
        raise InvalidRequest(f"{text!r} is not the number of a patch: write it like 12.", field="patch")
    return int(match[1])


def parse_file(text: str) -> tuple[Path, str]:
    """Split FILE[:WEIGHT]; an existing file whose name ends like a weight is a file."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists() or not re.fullmatch(_DECIMAL, weight):
        return Path(text), "1"
    return Path(path), weight


def decimal(value: str | float) -> str:
    """Return a number as the decimal text that a recipe takes: 0.5 is `0.5`, 1e-05 is `0.00001`."""
    return value if isinstance(value, str) else f"{Decimal(repr(float(value))).normalize():f}"
