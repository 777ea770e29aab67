"""propose, withdraw, review, comment, accept, reject, yank, unyank, quarantine, inbox: decisions on patches."""

from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.beside import patch_panel
from client.terminal.console import Console, fields, plain

if TYPE_CHECKING:
    from registry.schemas import Affected, Discussion, Inbox, Patch

Number = Annotated[str, typer.Argument(metavar="N", help="The patch's number.", show_default=False)]
Message = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why.")]
About = Annotated[
    list[str] | None,
    typer.Option(
        "--about", metavar="GLOB", help="Tensors that it refers to: a name, or a glob like 'layers.0.*'; repeatable."
    ),
]
Why = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why; required.")]


def propose(model: Model, number: Number, as_json: Json = False, quiet: Quiet = False) -> None:
    """Ask for review of your patch."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.propose(model, parse_number(number))
    _print(Console(as_json, quiet), done, f"next: a reviewer runs crumb review {model} {done.number} --approve")


def withdraw(model: Model, number: Number, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Withdraw your patch."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.withdraw(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def review(
    model: Model,
    number: Number,
    approve: Annotated[bool, typer.Option("--approve", help="Approve the newest revision.")] = False,
    request_changes: Annotated[
        bool, typer.Option("--request-changes", help="Ask its author for another revision.")
    ] = False,
    revision: Annotated[
        int | None,
        typer.Option("--revision", metavar="R", min=1, help="The revision you looked at; by default the newest."),
    ] = None,
    message: Message = "",
    about: About = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Approve somebody else's patch, or request changes.

    The verdict is on the newest revision; the next one must be reviewed again. With neither option, shows the patch's
    checks, reviews, evaluations and comments, and hints from its numbers.
    """
    from client.terminal.addresses import parse_number

    console, patch = Console(as_json, quiet), parse_number(number)
    if approve and request_changes:
        raise typer.BadParameter("give --approve or --request-changes, not both.")
    if about and not approve and not request_changes:
        raise typer.BadParameter("--about goes with --approve or --request-changes; `crumb comment` has it, too.")
    with connect() as client:
        if not approve and not request_changes:
            discussion = client.discussion(model, patch)
            console.result(discussion, _discussion(discussion), discussion.patch.state)
            return
        seen = revision or client.patch(model, patch).revision
        verdict = "approve" if approve else "request_changes"
        done = client.review(model, patch, verdict, seen, message, about or ())
        found = client.discussion(model, patch)
    lines = [f"missing: {plain(text)}" for text in found.missing]
    _print(console, done, *lines, *(f"hint: {plain(hint.sentence)}" for hint in found.hints))


def comment(
    model: Model,
    number: Annotated[str, typer.Argument(metavar="N[.R]", help="The patch, or a revision of it.", show_default=False)],
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Your comment, or why one is deleted or hidden.")
    ] = "",
    about: About = None,
    edit: Annotated[str | None, typer.Option("--edit", metavar="ID", help="Give your comment another text.")] = None,
    history: Annotated[
        str | None, typer.Option("--history", metavar="ID", help="Show all texts of a comment that was edited.")
    ] = None,
    delete: Annotated[
        str | None, typer.Option("--delete", metavar="ID", help="Delete a comment; `crumb review` shows its id.")
    ] = None,
    hide: Annotated[str | None, typer.Option("--hide", metavar="ID", help="Hide a comment.")] = None,
    unhide: Annotated[str | None, typer.Option("--unhide", metavar="ID", help="Show a hidden comment again.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Comment on a patch, or edit, delete or hide a comment.

    The texts that an edited comment had before are kept, and shown by --history.
    Everybody may delete their own comments, and maintainers anybody's, with a reason. Who deleted it, when and why
    stays in its place. Maintainers may also hide a comment: its text is kept, and shown to maintainers only.
    """
    from client.terminal.addresses import parse_item

    patch, _, revision = parse_item(number)
    if sum(chosen is not None for chosen in (edit, history, delete, hide, unhide)) > 1:
        raise typer.BadParameter("give one of --edit, --history, --delete, --hide and --unhide.")
    if about and any(chosen is not None for chosen in (edit, history, delete, hide, unhide)):
        raise typer.BadParameter("--about goes with a new comment.")
    if not message and history is None and delete is None and unhide is None:
        raise typer.BadParameter("say why with -m TEXT." if hide else "give a comment with -m TEXT, or --delete ID.")
    with connect() as client:
        if history is not None:
            found = client.comment_history(model, patch, history)
            texts = [
                f"{row.written_at.astimezone():%Y-%m-%d %H:%M}\n{plain(row.message, lines=True)}" for row in found.texts
            ]
            Console(as_json, quiet).result(found, "\n\n".join(texts), found.id)
            return
        if edit is not None:
            done, text = client.edit_comment(model, patch, edit, message), "Edited the comment"
        elif delete is not None:
            done, text = client.delete_comment(model, patch, delete, message), "Deleted the comment"
        elif hide is not None:
            done, text = client.hide_comment(model, patch, hide, message), "Hid the comment"
        elif unhide is not None:
            done, text = client.hide_comment(model, patch, unhide, None), "Everybody sees again the comment"
        else:
            done, text = client.comment(model, patch, message, revision, about or ()), f"Commented on {model}#{patch}:"
    Console(as_json, quiet).result(done, f"{text} {done.id}.", done.id)


def accept(
    model: Model,
    number: Number,
    supersedes: Annotated[
        list[str] | None, typer.Option("--supersedes", metavar="N", help="An older patch that this replaces.")
    ] = None,
    message: Message = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accept a patch, so that releases may hold it.

    It needs checks, approvals and evaluations as the model requires; what is missing is listed.
    """
    from client.terminal.addresses import parse_number

    with connect() as client:
        seen = client.patch(model, parse_number(number))
        older = [parse_number(text) for text in supersedes or ()]
        done = client.accept(model, seen.number, message, revision=seen.revision, supersedes=older)
    files = f" --files-of {done.number}" if seen.files else ""
    cut = f"next: crumb release cut {model} VERSION --from main --add {done.number}{files}"
    _print(Console(as_json, quiet), done, cut)


def reject(model: Model, number: Number, message: Why, as_json: Json = False, quiet: Quiet = False) -> None:
    """Reject a patch."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.reject(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def yank(model: Model, number: Number, message: Why, as_json: Json = False, quiet: Quiet = False) -> None:
    """Yank an accepted patch: nothing new is composed of it.

    Published releases that hold it stay as they are, with a warning when they are pulled; their names are printed.
    """
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.yank(model, parse_number(number), message)
    lines = _affected(model, done.number, done.affected) if done.affected else []
    _print(Console(as_json, quiet), done, *lines)


def unyank(model: Model, number: Number, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Undo a yank."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.unyank(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def quarantine(
    model: Model,
    number: Number,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Why.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End the quarantine.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quarantine a patch, as an admin of the registry.

    Its bytes, and models composed of it, are served to admins only, and nothing new is composed of it.
    """
    from client.terminal.addresses import parse_number

    if (message is None) != end:
        raise typer.BadParameter("give a reason with -m, or --end.")
    with connect() as client:
        done = client.quarantine(model, parse_number(number), message)
    lines = _affected(model, done.number, done.affected) if done.affected else []
    _print(Console(as_json, quiet), done, "quarantined" if done.quarantined else "not quarantined", *lines)


def inbox(
    model: Annotated[
        str | None, typer.Argument(metavar="[NS/NAME]", help="Only of this model.", show_default=False)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what is waiting for you in a model, or in all models."""
    console = Console(as_json, quiet)
    with connect() as client:
        if model is not None:
            waiting = client.inbox(model)
            text = "\n\n".join(_waiting(waiting)) or "Nothing is waiting for you."
            console.result(waiting, text, "\n".join(f"#{number}" for number in _numbers(waiting)))
            return
        found = {name: client.inbox(name) for name in [row.model for row in client.waiting_models()]}
    parts = [f"{name}\n\n" + "\n\n".join(_waiting(waiting)) for name, waiting in found.items()]
    brief = [f"{name}#{number}" for name, waiting in found.items() for number in _numbers(waiting)]
    console.result(found, "\n\n\n".join(parts) or "Nothing is waiting for you.", "\n".join(brief))


def _waiting(waiting: "Inbox") -> list[str]:
    parts = [
        ("To review", [_line(patch) for patch in waiting.review]),
        ("To accept or reject", [_line(patch) for patch in waiting.accept]),
        ("Yours", [_line(patch) for patch in waiting.mine]),
        ("Proposed cards", [f"#{card.number}: {plain(card.title)} ({plain(card.author)})" for card in waiting.cards]),
        ("Releases to publish", [plain(version) for version in waiting.candidates]),
        ("ALARM: composed to different results", waiting.alarms),
    ]
    return [f"{head}:\n" + "\n".join(f"  {line}" for line in lines) for head, lines in parts if lines]


def _numbers(waiting: "Inbox") -> list[int]:
    patches = [patch.number for patch in (*waiting.review, *waiting.accept, *waiting.mine)]
    return patches + [card.number for card in waiting.cards]


def _line(patch: "Patch") -> str:
    return f"#{patch.number}.{patch.revision} {patch.state}: {plain(patch.title)} ({plain(patch.author)})"


def _print(console: Console, patch: "Patch", *lines: str) -> None:
    console.result(patch, "\n".join([f"{patch.model}#{patch.number}  {patch.state}", *lines]), patch.state)


def _affected(model: str, number: int, affected: "Affected") -> list[str]:
    if not affected.releases:
        return ["No published release holds it."]
    lines = [f"in releases: {plain(', '.join(affected.releases))}"]
    if affected.channels:
        lines.append(f"in channels: {plain(', '.join(affected.channels))}")
    newest = affected.releases[0]
    return [*lines, f"next: crumb release cut {model} VERSION --from {plain(newest)} --without {number}"]


def _discussion(discussion: "Discussion") -> str:
    patch = discussion.patch
    pairs = [("patch", f"{patch.model}#{patch.number}.{patch.revision}, {patch.state}"), ("title", plain(patch.title))]
    pairs += [
        (f"check {check.name}", f"{check.status}{'' if check.required else ' (not required)'}: {plain(check.summary)}")
        for check in discussion.checks
    ]
    pairs += [
        (
            f"#{patch.number}.{row.revision}",
            f"{row.verdict} by {plain(row.reviewer)}{'' if row.counts else ' (stale)'}{_about(row.about)}",
        )
        for row in discussion.reviews
    ]
    pairs += [
        (row.metric, f"{row.value:g} on {plain(row.dataset)} ({plain(row.task)}), by {plain(row.user)}")
        for row in discussion.evaluations
    ]
    pairs += [("missing", plain(text)) for text in discussion.missing]
    pairs += [("hint", plain(hint.sentence)) for hint in discussion.hints]
    text = fields(pairs) + patch_panel(patch.files)
    for row in discussion.comments:
        at = f"{row.created_at.astimezone():%Y-%m-%d %H:%M}"
        edited = ", edited" if row.edited_at else ""
        text += f"\n\n{plain(row.author)}{_about(row.about)}, {at}{edited} ({row.id}):\n"
        if row.deleted:
            text += f"deleted by {plain(row.deleted.user)}: {plain(row.deleted.reason) or 'no reason given'}"
            continue
        if row.hidden:
            text += f"hidden by {plain(row.hidden.user)}: {plain(row.hidden.reason)}\n"
        text += plain(row.message.strip(), lines=True)
    return text


def _about(about: list[str]) -> str:
    """Return the tensors that a message refers to, as part of a line."""
    return f" on {' '.join(map(plain, about))}" if about else ""
