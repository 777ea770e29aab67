"""Configuration: the settings of a command, from its options, the environment and a file, and where each is from."""

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import InvalidRequest

if TYPE_CHECKING:
    from registry.settings import Settings

USUAL_FILE = Path("/etc/crumb-server.toml")
PREFIX = "REGISTRY_"
FILE_VARIABLE = "REGISTRY_CONFIG"
HIDDEN = "********"


@dataclass(frozen=True)
class Configuration:
    """Settings, and where they are from.

    Attributes:
        settings: The settings.
        sources: The source of each setting that is not a default: an option, a variable or the file.
        file: The file that was read; None if there was none.
        strangers: Variables REGISTRY_… that are not settings.
    """

    settings: "Settings"
    sources: Mapping[str, str]
    file: Path | None
    strangers: tuple[str, ...]


def load(data: Path | None = None, file: Path | None = None) -> Configuration:
    """Return the settings: an option before the environment, the environment before the file, the file before defaults.

    Args:
        data: The data folder of the command line.
        file: The file of the command line; if None, the one that REGISTRY_CONFIG names, or the usual one if it is
            there. An empty REGISTRY_CONFIG stands for no file.

    Raises:
        InvalidRequest: The file cannot be read, a setting in it does not exist, or a setting is not valid.
    """
    from pydantic import ValidationError

    from registry.settings import Settings

    values, sources = {}, {}
    place = find_file(file)
    if place is not None:
        for name, value in read_file(place, Settings.model_fields).items():
            values[name], sources[name] = value, str(place)
    for name, variable in variables(Settings.model_fields):
        values[name], sources[name] = os.environ[variable], variable
    if data is not None:
        values["data"], sources["data"] = data, "--data"
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise InvalidRequest(explain(error.errors(include_url=False)[0], sources, place)) from None
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {FILE_VARIABLE}
    given = (name for name in os.environ if name.startswith(PREFIX))
    strangers = tuple(sorted(name for name in given if name.upper() not in known))
    return Configuration(settings, sources, place, strangers)


def find_file(file: Path | None) -> Path | None:
    """Return the file that settings are read from, or None."""
    if file is not None:
        return file
    if (named := os.environ.get(FILE_VARIABLE)) is not None:
        return Path(named) if named else None
    return USUAL_FILE if USUAL_FILE.exists() else None


def read_file(file: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a TOML file sets; warn if it holds a secret that others can read.

    Raises:
        InvalidRequest: It cannot be read, is not TOML, or sets something that is not a setting.
    """
    try:
        written = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InvalidRequest(
            f"The configuration {file} cannot be read: {error.strerror}. Name another by --config or {FILE_VARIABLE}, "
            f"or set {FILE_VARIABLE} to nothing for none.",
            field="config",
        ) from None
    except ValueError as error:  # what tomllib raises, and UnicodeDecodeError, are ValueErrors
        raise InvalidRequest(f"The configuration {file} is not TOML: {error}.", field="config") from None
    for name, value in written.items():
        if name in fields:
            if isinstance(value, dict):
                raise InvalidRequest(f"{name} in {file} cannot be a table: a setting is one line, `{name} = …`.")
            continue
        if isinstance(value, dict):
            raise InvalidRequest(f"{file} has a table [{name}]; settings are lines of their own, without tables.")
        hint = nearest(name, fields, 0.6)
        help_ = f"did you mean {hint}?" if hint else "`crumb-server config` lists them."
        raise InvalidRequest(f"{name} in {file} is not a setting; {help_}")
    if any(is_secret(fields[name]) for name in written) and file.stat().st_mode & 0o004:
        print(
            f"crumb-server: {file} holds secrets, and everybody can read it; run `chmod o-r {file}`.", file=sys.stderr
        )
    return written


def nearest(name: str, names: Mapping[str, Any], likeness: float) -> str | None:
    """Return the setting that somebody may have meant by another name, of at least some likeness from 0 to 1."""
    return next(iter(get_close_matches(name.lower().removeprefix(PREFIX.lower()), names, 1, likeness)), None)


def variables(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each setting that the environment has, with the name of its variable there, in whatever case."""
    there = {name.upper(): name for name in os.environ}
    for name, field in fields.items():
        aliases = getattr(field.validation_alias, "choices", ())
        for wanted in [*(str(alias) for alias in aliases if str(alias).isupper()), PREFIX + name.upper()]:
            if wanted in there:
                yield name, there[wanted]
                break


def warn(configuration: Configuration) -> None:
    """Print a line for each variable that is almost the name of a setting, since it changes nothing."""
    from registry.settings import Settings

    for stranger in configuration.strangers:
        if name := nearest(stranger, Settings.model_fields, 0.85):
            hint = f"did you mean {PREFIX}{name.upper()}?"
            print(f"crumb-server: {stranger} is not a setting, and changes nothing; {hint}", file=sys.stderr)


def explain(wrong: Any, sources: Mapping[str, str], file: Path | None) -> str:
    """Return a sentence for an invalid setting: its name, its value unless that is a secret, and what is wrong."""
    from registry.settings import Settings

    name = str(wrong["loc"][0]).lower().removeprefix(PREFIX.lower())
    source = sources.get(name, PREFIX + name.upper())
    called = f"{name} in {file}" if source == str(file) else source
    field = Settings.model_fields.get(name)
    value = HIDDEN if field is not None and is_secret(field) else repr(wrong["input"])
    return f"{called} cannot be {value}: {wrong['msg'].removeprefix('Value error, ')}."


def is_secret(field: Any) -> bool:
    """Tell whether a setting is never shown."""
    return "SecretStr" in str(field.annotation)


def shown(configuration: Configuration) -> list[dict[str, Any]]:
    """Return every setting as people may see it: its name, value and source; secrets and passwords are hidden."""
    rows = []
    for name, field in type(configuration.settings).model_fields.items():
        value = getattr(configuration.settings, name)
        if is_secret(field):
            value = HIDDEN if value and value.get_secret_value() else None
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, str):
            value = without_passwords(value)
        rows.append({"name": name, "value": value, "source": configuration.sources.get(name, "default")})
    return rows


def without_passwords(address: str) -> str:
    """Return an address with its passwords hidden, rather more than too little."""
    address = re.sub(r"(://[^:@/?]*):.*@", rf"\1:{HIDDEN}@", address)
    return re.sub(r"([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", rf"\1{HIDDEN}", address, flags=re.IGNORECASE)
