"""config: which settings hold, and where they are from."""

import json
from typing import Annotated, Any

import typer

from registry.cli.common import ConfigFile, Data, Json


def config(
    data: Data = None,
    file: ConfigFile = None,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out settings that have their defaults.")] = False,
    as_json: Json = False,
) -> None:
    """Print the settings that hold, and where each is from. Secrets and passwords are hidden.

    What it prints is a configuration file again, but for the secrets, which are comments.
    """
    from registry.cli.configuration import USUAL_FILE, load, shown

    configuration = load(data, file)
    rows = [row for row in shown(configuration) if not changed or row["source"] != "default"]
    if as_json:
        read = str(configuration.file) if configuration.file else None
        print(json.dumps({"file": read, "settings": rows, "unknown": configuration.strangers}))
        return
    print(f"# Read: {configuration.file}" if configuration.file else f"# Read: no file ({USUAL_FILE} is the usual one)")
    lines = [line(row["name"], row["value"]) for row in rows]
    width = min(max(map(len, lines), default=0), 60)
    for text, row in zip(lines, rows, strict=True):
        print(f"{text:<{width}}  # {row['source']}")
    for name in configuration.strangers:
        print(f"# {name} is not a setting, and changes nothing.")


def line(name: str, value: Any) -> str:
    """Return a setting as a line of TOML; one that is unset or hidden as a comment."""
    from pydantic import ByteSize

    from registry.cli.configuration import HIDDEN
    from registry.files.sizes import exact

    if value is None:
        return f"# {name} is unset"
    if HIDDEN in str(value):
        return f"# {name} = {value}"
    if isinstance(value, ByteSize):
        return f'{name} = "{exact(value)}"'
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"
