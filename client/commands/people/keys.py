"""key make, key trust: keys that sign releases."""

from pathlib import Path
from typing import Annotated

import typer

from client.commands.options import Json, Model, Quiet
from client.terminal.console import Console

group = typer.Typer(name="key", help="Keys that sign releases.", no_args_is_help=True, rich_markup_mode=None)


@group.command()
def make(
    private: Annotated[
        Path,
        typer.Argument(
            metavar="PRIVATE.pem", help="File for the private key; keep it to yourself.", show_default=False
        ),
    ],
    public: Annotated[
        Path,
        typer.Argument(metavar="PUBLIC.pem", help="File for the public key; give it to everybody.", show_default=False),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a pair of keys (EC P-256)."""
    from registry.documents.signing.bundles import make_key

    make_key(private, public)
    document = {"private": str(private), "public": str(public)}
    text = f"Keep {private} to yourself; give {public} to those who verify."
    Console(as_json, quiet).result(document, text, str(public))


@group.command()
def trust(
    model: Model,
    public: Annotated[Path, typer.Argument(metavar="PUBLIC.pem", help="The maintainers' key.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trust a key for the releases of a model.

    Every later `crumb verify` requires them to be signed by it.
    """
    from client.machine.config import home
    from client.machine.sources import read_text
    from client.terminal.addresses import check_model

    path = home() / "keys" / f"{check_model(model)}.pem"
    text = read_text(public, 16384)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    Console(as_json, quiet).result({"model": model, "key": str(path)}, f"Trusted for {model}: {path}.", str(path))
