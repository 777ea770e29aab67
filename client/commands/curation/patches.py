"""push, log, compose: a model's patches at the registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.composing.conflicts import describe
from client.commands.options import Alpha, Author, Json, Limit, Model, NoWait, Quiet, connect
from client.terminal.console import Console, fields, plain, size

if TYPE_CHECKING:
    from registry.schemas import Patch

MESSAGE_BYTES = 65536  # of PatchRequest.message
Task = Annotated[str | None, typer.Option("--task", metavar="T", help="What it is for, like math or code/python.")]


def push(
    patch: Annotated[Path, typer.Argument(metavar="PATCH", help="A patch file.", show_default=False)],
    model: Model,
    title: Annotated[str, typer.Option("--message", "-m", metavar="TITLE", help="One line on what it does.")],
    task: Task = None,
    message_file: Annotated[
        Path | None, typer.Option("--message-file", metavar="F", help="A longer text from this file.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Of the patch, like apache-2.0.")
    ] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Ask for review at once.")] = False,
    update: Annotated[
        str | None, typer.Option("--update", metavar="N", help="The next revision of your patch N.")
    ] = None,
    no_wait: NoWait = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Contribute a patch to a model.

    It is a draft until `crumb propose` (or --propose) asks for review. Prints the patch's number. Run again after a
    kill it goes on where it was; run again after success it answers with the same number.
    """
    from client.actions.push import push as run
    from client.machine.sources import read_text
    from client.terminal.addresses import parse_number

    console = Console(as_json, quiet)
    message = "" if message_file is None else read_text(message_file, MESSAGE_BYTES)
    with connect() as client:
        done = run(
            client,
            patch,
            model,
            title,
            message=message,
            task=task,
            license=license,
            propose=propose,
            update=None if update is None else parse_number(update),
            wait=not no_wait,
            console=console,
        )
    name = f"{done.model}#{done.number}" + (f".{done.revision}" if done.revision > 1 else "")
    text = f"{name}  {done.check}, {done.state}\n{_summary(done)}"
    if done.state == "draft":
        text += f"\nnext: crumb propose {done.model} {done.number}"
    console.result(done, text, name)


def log(
    model: Model,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="Only for this task.")] = None,
    author: Author = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="S", help="Only in this state, like proposed or accepted.")
    ] = None,
    density_min: Annotated[
        float | None, typer.Option("--density-min", metavar="D", help="Only if it changes this part of all weights.")
    ] = None,
    density_max: Annotated[
        float | None, typer.Option("--density-max", metavar="D", help="Only if it changes no more, like 0.15.")
    ] = None,
    tensor: Annotated[
        str | None, typer.Option("--tensor", metavar="T", help="Only if it changes a tensor called like this.")
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List a model's patches, newest first."""
    console = Console(as_json, quiet)
    with connect() as client:
        found = client.patches(
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
            console.result(list(found), "")
            return
        empty = True
        for patch in found:
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
        typer.Argument(metavar="N[.R][:WEIGHT]", help="Patch numbers, weight 1 if not said.", show_default=False),
    ],
    alpha: Alpha = "0.3",
    allow_yanked: Annotated[bool, typer.Option("--allow-yanked", help="Even of patches that were yanked.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would be.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compose any subset of a model's patches, at the registry.

    The model is base + alpha * sum(weight * patch). Prints the recipe digest, by which the model is pulled, and its
    weights digest.

    With --dry-run nothing is composed: it says what there is to know of the patches, and where they meet.

    Ctrl-C stops the waiting only: the registry goes on, and the same command waits again.
    """
    from client.terminal.addresses import parse_item

    console = Console(as_json, quiet)
    items = [parse_item(text) for text in patches]
    with connect() as client:
        if dry_run:
            found = client.preview(model, items, alpha=alpha, allow_yanked=allow_yanked)
            console.result(found, fields(describe(found)), found.recipe)
            return
        made = client.compose(model, items, alpha=alpha, allow_yanked=allow_yanked)
        if made.weights_digest is None and made.job is not None:
            try:
                with console.waiting(f"composing {made.recipe.digest[:12]}") as progress:
                    client.wait(made.job, progress=progress, idle=console.idle)
            except KeyboardInterrupt:
                console.note("\nThe registry goes on composing; run the same command to wait for it again.")
                raise
            made = client.compose(model, items, alpha=alpha, allow_yanked=allow_yanked)
    used = ", ".join(
        f"#{item.number}" + (f":{item.weight}" if item.weight != "1" else "") for item in made.recipe.patches
    )
    pairs = [
        ("recipe", made.recipe.digest),
        ("weights", made.weights_digest or "-"),
        ("patches", f"{used} at alpha {made.recipe.alpha}"),
    ]
    if made.seconds is not None:
        pairs.append(("computed", f"on {plain(made.device or '?')} in {made.seconds:.1f} s"))
    pairs.append(("next", f"crumb pull {model}@{made.recipe.digest[:12]} -o DIR"))
    console.result(made, fields(pairs), f"{made.recipe.digest} {made.weights_digest}")


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
    """Return what matters now: the check until it has passed, then what was decided."""
    words = patch.state if patch.check == "checked" else patch.check
    return f"{words}, quarantined" if patch.quarantined else words


def _summary(patch: "Patch") -> str:
    density = f"density {patch.density:.2%}, " if patch.density is not None else ""
    lines = f"{density}{size(patch.size)}, sha256 {patch.sha256}"
    return f"{lines}\nrefused: {plain(patch.refusal)}" if patch.refusal else lines
