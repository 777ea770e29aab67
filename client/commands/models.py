"""model create, list, show, set: models and their settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import (
    Author,
    DropBottom,
    DropTop,
    Granularity,
    Json,
    Limit,
    Model,
    NoWait,
    Quiet,
    ValueDtype,
    connect,
    mask_of,
)
from client.terminal.console import Console, fields, plain, size, table

if TYPE_CHECKING:
    from registry import schemas

group = typer.Typer(name="model", help="Create, list and show models.", no_args_is_help=True, rich_markup_mode=None)


@group.command()
def create(
    name: Model,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="DIR",
            help="Folder, file or Hub id to send; or hf://ORG/NAME@REV, which stays on the Hub.",
        ),
    ],
    card: Annotated[
        Path | None, typer.Option("--card", metavar="README.md", help="The model card, in place of the base's.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only members may see it.")] = False,
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Licence of the base; by default that of its card.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="With hf://ORG/NAME@REV: the registry keeps the weights, too.")
    ] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Create a model pinned to a base.

    Sends every file of the folder except hidden ones and pickles. If it is interrupted, run it again: it resumes.
    A base like hf://org/name@revision is fetched by the registry, and its weights stay on the Hub unless copied.
    """
    from client.actions.models import create as run

    console = Console(as_json, quiet)
    with connect() as client:
        model = run(
            client,
            name,
            base,
            card=card,
            copy=copy,
            private=private,
            license=license,
            wait=not no_wait,
            console=console,
        )
    text = f"Created {model.name}.\n{_fields(model)}" if model.base else f"{model.name} is being imported."
    console.result(model, text, model.base or model.name)


@group.command(name="list")
def list_models(
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only names that contain this.")
    ] = None,
    author: Author = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models by name."""
    _list(search, author, limit, Console(as_json, quiet))


def search(
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS", help="All of them are in the name.", show_default=False)
    ],
    author: Author = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search models by words in their names."""
    _list(" ".join(words), author, limit, Console(as_json, quiet))


def _list(search: str | None, author: str | None, limit: int | None, console: Console) -> None:
    with connect() as client:
        models = list(client.models(search=search, author=author, limit=limit))
    rows = [
        (
            model.name,
            model.state,
            str(model.patches),
            f"{model.parameters:,}" if model.parameters is not None else "-",
            size(model.size),
            f"{model.created_at.astimezone():%Y-%m-%d}",
        )
        for model in models
    ]
    heads = ("model", "state", "patches", "parameters", "size", "created")
    text = table(heads, rows, right=(2, 3, 4)) if rows else "There are no such models."
    console.result(models, text, "\n".join(model.name for model in models))


@group.command()
def show(name: Model, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show a model and its card."""
    with connect() as client:
        model = client.model(name)
    text = _fields(model)
    if model.card and model.card.strip():
        text += "\n\n" + plain(model.card.strip(), lines=True)
    Console(as_json, quiet).result(model, text, model.base or "")


@group.command(name="set")
def set_model(
    name: Model,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Whether only members may see it.")] = None,
    license: Annotated[str | None, typer.Option("--license", metavar="ID", help="Licence of the base.")] = None,
    approvals: Annotated[
        int | None, typer.Option("--approvals", metavar="N", min=0, max=10, help="Approvals needed to accept a patch.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="DATASET:METRIC",
            help="Evaluation that every patch and release needs; may be repeated.",
        ),
    ] = None,
    require_none: Annotated[bool, typer.Option("--require-none", help="No evaluation is needed.")] = False,
    drop_bottom: DropBottom = None,
    drop_top: DropTop = None,
    granularity: Granularity = None,
    value_dtype: ValueDtype = None,
    mask_none: Annotated[bool, typer.Option("--mask-none", help="Patches are made by the general defaults.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change a model's visibility, licence and review rules, and how patches are made.

    --drop-bottom, --drop-top, --granularity and --value-dtype hold for patches whose authors do not say otherwise:
    those of `crumb push`, and those that the registry makes of what tools of the Hub push.
    """
    given = mask_of(drop_bottom, drop_top, granularity, value_dtype)
    with connect() as client:
        mask = {**({} if mask_none else client.model(name).mask), **given} if given or mask_none else None
        model = client.update_model(
            name,
            visibility=None if private is None else "private" if private else "public",
            license=license,
            min_approvals=approvals,
            required_evaluations=[] if require_none else require or None,
            mask=mask,
        )
    Console(as_json, quiet).result(model, _fields(model), model.name)


def _fields(model: "schemas.Model") -> str:
    return fields(
        [
            ("model", model.name),
            ("creator", plain(model.creator)),
            ("visible", "to members" if model.visibility == "private" else "to all"),
            *([("you are", model.role)] if model.role else []),
            ("licence", plain(model.license or "not stated")),
            ("accepting", _policy(model)),
            *(
                [("patches by", ", ".join(f"{name} {plain(value)}" for name, value in model.mask.items()))]
                if model.mask
                else []
            ),
            ("state", model.state),
            ("base", model.base or "-"),
            *([("source", plain(_source(model)))] if model.source else []),
            ("parameters", f"{model.parameters:,}" if model.parameters is not None else "-"),
            ("size", size(model.size)),
            ("patches", str(model.patches)),
            ("created", f"{model.created_at.astimezone():%a %b %d %H:%M:%S %Y %z}"),
        ]
    )


def _source(model: "schemas.Model") -> str:
    return f"{model.source} ({'its weights stay there' if model.by_reference else 'copied'})"


def _policy(model: "schemas.Model") -> str:
    needs = [
        "1 approval" if model.min_approvals == 1 else f"{model.min_approvals} approvals",
        *map(plain, model.required_evaluations),
    ]
    return "needs " + ", ".join(needs)
