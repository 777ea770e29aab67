"""doctor, status, browse: this installation, a pulled folder, and the pages of a registry."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain

if TYPE_CHECKING:
    from client.overview.status import PulledFolder


def doctor(as_json: Json = False, quiet: Quiet = False) -> None:
    """Check this installation, and say what would help.

    It looks at what is installed, reachable, signed in and cached, and at clock and disk.

    With -q, only what is amiss.
    """
    from client.overview.doctor import examine

    findings = examine()
    lines = []
    for finding in findings:
        remedy = f"\n{'':6}{finding.remedy}" if finding.remedy else ""
        lines.append(f"{finding.state:4}  {finding.name}: {finding.text}{remedy}")
    brief = "\n".join(line for finding, line in zip(findings, lines, strict=True) if finding.state != "ok")
    Console(as_json, quiet).result([asdict(finding) for finding in findings], "\n".join(lines), brief)


def status(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A pulled folder.", show_default=False)] = Path(),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a pulled folder is, and what is newer.

    It looks at no weights; `crumb verify` does. Without a registry it shows what was pulled.
    """
    from client.overview.status import look_up, status_of
    from registry.errors import BreadcrumbError

    console = Console(as_json, quiet)
    pulled = status_of(folder)
    try:
        with connect() as client:
            pulled = look_up(client, pulled)
    except BreadcrumbError as why:
        console.note(f"What is newer is not known: {plain(str(why))}")
    document = {**asdict(pulled), "folder": str(folder), "newer": pulled.newer}
    console.result(document, fields(_status_rows(pulled)), pulled.address)


def _status_rows(pulled: "PulledFolder") -> list[tuple[str, str]]:
    again = f"`crumb pull {plain(pulled.address)} -o {pulled.folder}`"
    state = "complete" if pulled.complete else f"not complete; {again} resumes"
    if pulled.missing:
        state = f"{len(pulled.missing)} files are missing, like {plain(pulled.missing[0])}; {again} brings them"
    rows = [("model", plain(pulled.address)), ("weights", plain(pulled.weights_digest)), ("folder", state)]
    rows += [("warning", plain(warning)) for warning in pulled.warnings]
    for channel, release in pulled.channels.items():
        rows.append((plain(channel), "this release" if release == pulled.ref else f"{plain(release)} now"))
    if pulled.newest is not None and not pulled.channels:
        newest = "this" if pulled.newest == pulled.ref else plain(pulled.newest)
        rows.append(("newest", newest))
    if pulled.newer:
        ref = "" if pulled.newer[0] == "main" else f"@{plain(pulled.newer[0])}"
        rows.append(("next", f"crumb pull {plain(pulled.model)}{ref} -o {pulled.folder}"))
    return rows


def browse(
    address: Annotated[
        str | None, typer.Argument(metavar="[NS/NAME[#N|@REF]]", help="What to show.", show_default=False)
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the address, and open nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Open the page of a model, a patch or a release.

    Or of a channel or a recipe; without an address, of the registry.

    Prints the address, too. With --print, --json, -q, or where no terminal is, only that.
    """
    from client.machine.config import current
    from client.terminal.addresses import page_of

    url = f"{current().url}{page_of(address)}"
    console = Console(as_json, quiet)
    console.result({"url": url}, url)
    if not (only_print or as_json or quiet) and sys.stdout.isatty():
        import webbrowser

        if not webbrowser.open(url):
            console.note("No browser could be opened here; open the address yourself.")
