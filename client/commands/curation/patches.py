"""push, log, compose: the patches of a model at the registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands.composing.conflicts import describe
from client.commands.composing.local import diff
from client.commands.options import (
    Alpha,
    Author,
    Json,
    Limit,
    Method,
    Model,
    NoWait,
    Quiet,
    Where,
    changed_options,
    connect,
    parse_size,
    with_options_of,
)
from client.terminal.beside import patch_panel
from client.terminal.console import Console, fields, plain, size
from client.terminal.recipes import describe_alpha, describe_recipe
from registry.breadcrumbs.comparing.alpha import AUTO

if TYPE_CHECKING:
    from registry.schemas import Patch

MESSAGE_BYTES = 65536  # of PatchRequest.message
Task = Annotated[str | None, typer.Option("--task", metavar="T", help="What it is for, like math or code/python.")]


@with_options_of(diff)
def push(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[BASE] TUNED",
            help="The tuned model: a folder, a file, an adapter, or a Hub id; or a patch file.",
            show_default=False,
        ),
    ],
    model: Model,
    title: Annotated[str, typer.Option("--message", "-m", metavar="TITLE", help="One line on what it does.")],
    task: Task = None,
    message_file: Annotated[
        Path | None, typer.Option("--message-file", metavar="F", help="A file with a longer description.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Licence of the patch, like apache-2.0.")
    ] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Ask for review at once.")] = False,
    update: Annotated[
        str | None, typer.Option("--update", metavar="N", help="Add it as the next revision of your patch N.")
    ] = None,
    tuned_from: Annotated[
        str | None,
        typer.Option("--tuned-from", metavar="REF", help="What it was tuned from, if that is a release, like 1.2.0."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="FILE", help="Keep the patch that is made, as this file.")
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out the files beside the weights.")
    ] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Contribute a tuned model, or a patch, to a model.

    The patch is what TUNED changes of the base, as by `crumb diff`, whose options it takes. The base is that of
    NS/NAME; it is taken from the cache or the registry, unless BASE names a copy. A patch file is pushed as it is.

    Files of TUNED beside its weights that differ from the base's, like config.json or a chat template, are sent with
    it; a release takes them if its maintainer says so.

    A model that was tuned from a release, and not from the base, has the release's changes in it. With --tuned-from,
    the patch holds only what was learned on top of that.

    In a job of a build service that an owner has named (`crumb publisher add`), no token is needed.

    It is a draft until `crumb propose` (or --propose) asks for review. Prints the patch's number. If it is interrupted,
    run it again: it resumes. After success it prints the same number again.
    """
    from client.actions.push_tuned import push_tuned
    from client.machine.sources import read_text
    from client.terminal.addresses import parse_number

    if len(sources) > 2:
        raise typer.BadParameter("name one tuned model, or the base and then the tuned model, and last NS/NAME")
    *base, tuned = sources
    changed = changed_options(options, diff)
    if "device_memory" in changed:
        changed["device_memory"] = parse_size(options["device_memory"])
    console = Console(as_json, quiet)
    message = "" if message_file is None else read_text(message_file, MESSAGE_BYTES)
    with connect(pushing=model) as client:
        pushed = push_tuned(
            client,
            tuned,
            model,
            title,
            base=base[0] if base else None,
            tuned_from=tuned_from,
            keep=keep,
            weights_only=weights_only,
            options=changed,
            message=message,
            task=task,
            license=license,
            propose=propose,
            update=None if update is None else parse_number(update),
            wait=not no_wait,
            console=console,
        )
    name = f"{pushed.model}#{pushed.number}" + (f".{pushed.revision}" if pushed.revision > 1 else "")
    text = f"{name}  {pushed.check}, {pushed.state}\n{_summary(pushed)}{patch_panel(pushed.files)}"
    if pushed.state == "draft":
        text += f"\nnext: crumb propose {pushed.model} {pushed.number}"
    console.result(pushed, text, name)


def log(
    model: Model,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="Only for this task.")] = None,
    author: Author = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="S", help="Only in this state, like proposed or accepted.")
    ] = None,
    density_min: Annotated[
        float | None,
        typer.Option(
            "--density-min", metavar="D", help="Only if it changes at least this share of all weights, like 0.05."
        ),
    ] = None,
    density_max: Annotated[
        float | None,
        typer.Option("--density-max", metavar="D", help="Only if it changes at most this share, like 0.15."),
    ] = None,
    tensor: Annotated[
        str | None, typer.Option("--tensor", metavar="T", help="Only if it changes a tensor whose name contains this.")
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List a model's patches, newest first."""
    console = Console(as_json, quiet)
    with connect() as client:
        patches = client.patches(
            model,
            task=task,
            author=author,
            state=state,
            density_min=density_min,
            density_max=density_max,
            tensor=tensor,
            limit=limit,
        )
        if as_json:
            console.result(list(patches), "")
            return
        empty = True
        for patch in patches:
            if quiet:
                print(f"#{patch.number} {plain(patch.title)}")
            else:
                print(("" if empty else "\n") + _entry(patch))
            empty = False
    if empty:
        console.note(f"{model} has no such patches.")


def compose(
    model: Model,
    patches: Annotated[
        list[str],
        typer.Argument(metavar="N[.R][:WEIGHT]", help="Patch numbers; the weight is 1 by default.", show_default=False),
    ],
    alpha: Alpha = AUTO,
    method: Method = "sum",
    where: Where = None,
    allow_yanked: Annotated[bool, typer.Option("--allow-yanked", help="Allow patches that were yanked.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is known about it.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compose any subset of a model's patches at the registry.

    The model is base + alpha * sum(weight * patch); the other methods average patches where they meet. --where
    '3:layers.0.*=0.5' halves patch 3 in these tensors; the first that matches a tensor counts.

    Prints the recipe digest, by which the model is pulled, and its weights digest.

    With --dry-run nothing is composed: it shows alpha, size, conflicts, warnings and hints. Patches are compared first
    if alpha auto needs that.

    Ctrl-C only stops waiting: the registry goes on, and the same command waits again.
    """
    from client.actions.composing import compose as run
    from client.actions.composing import preview as look
    from client.terminal.addresses import parse_items

    console = Console(as_json, quiet)
    items = parse_items(patches, where)
    with connect() as client:
        if dry_run:
            preview = look(client, model, items, alpha=alpha, method=method, allow_yanked=allow_yanked, console=console)
            console.result(preview, fields(describe(preview)), preview.recipe or "-")
            return
        composition = run(client, model, items, alpha=alpha, method=method, allow_yanked=allow_yanked, console=console)
    pairs = [
        ("recipe", composition.recipe.digest),
        ("weights", composition.weights_digest or "-"),
        ("patches", describe_recipe(composition.recipe)),
    ]
    if composition.alpha_rule is not None:
        pairs.append(("alpha", describe_alpha(composition.recipe.alpha, composition.alpha_rule)))
    if composition.seconds is not None:
        pairs.append(("computed", f"on {plain(composition.device or '?')} in {composition.seconds:.1f} s"))
    if composition.left_out:
        pairs.append(("left out", plain(", ".join(composition.left_out))))
    for warning in composition.warnings:
        console.note(plain(warning))
    pairs.append(("next", f"crumb pull {model}@{composition.recipe.digest[:12]} -o DIR"))
    console.result(composition, fields(pairs), f"{composition.recipe.digest} {composition.weights_digest}")


def _entry(patch: "Patch") -> str:
    lines = [
        f"patch #{patch.number} ({_state(patch)})",
        f"Author: {plain(patch.author)}",
        f"Date:   {patch.created_at.astimezone():%a %b %d %H:%M:%S %Y %z}",
    ]
    if patch.task:
        lines.append(f"Task:   {plain(patch.task)}")
    lines += ["", f"    {plain(patch.title)}"]
    if patch.message.strip():
        lines += ["", *(f"    {line}".rstrip() for line in plain(patch.message.strip(), lines=True).split("\n"))]
    lines += ["", *(f"    {line}" for line in _summary(patch).split("\n"))]
    return "\n".join(lines)


def _state(patch: "Patch") -> str:
    """Return the check until it has passed, then the state."""
    words = patch.state if patch.check == "checked" else patch.check
    return f"{words}, quarantined" if patch.quarantined else words


def _summary(patch: "Patch") -> str:
    density = f"density {patch.density:.2%}, " if patch.density is not None else ""
    lines = f"{density}{size(patch.size)}, sha256 {patch.sha256}"
    return f"{lines}\nrefused: {plain(patch.refusal)}" if patch.refusal else lines
