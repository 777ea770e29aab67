"""`python -m benchmarks <name>`: measure, print a table with ratios, and write results/<name>.json."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import report
from benchmarks.commands import COMMANDS
from benchmarks.machine import Others
from benchmarks.results import HERE, RESULTS, save, show
from registry.errors import BreadcrumbError

BUSY = 0.05
"""Part of the processors that others may take before we say so."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="NAME")
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.split("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_options(command)
        add_results(command)
    commands.add_parser("all", help="everything, and the report; each command takes the options that it knows")
    text = report.__doc__ or ""
    command = commands.add_parser("report", help=text.split("\n")[0], description=text, allow_abbrev=False)
    add_results(command)
    command.add_argument("--output", type=Path, default=HERE, help="where README.md and plots/ go (benchmarks/)")
    return parser


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option that keeps a try apart from the results that the report shows."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results lie (benchmarks/results)")


def measure(args: argparse.Namespace) -> None:
    """Run one command."""
    others = Others()
    result = COMMANDS[args.command].run(args)
    if result is None:
        return
    share = others.share()
    if share > BUSY:
        print(
            f"Others took {share:.0%} of the processors meanwhile; measure again on a quiet machine.", file=sys.stderr
        )
    result = replace(result, parameters={**result.parameters, "processors taken by others": f"{share:.0%}"})
    print(show(result))
    save(result, args.results)


def measure_all(options: Sequence[str]) -> None:
    """Run every command with those of the options that it knows, and write the report."""
    parser = make_parser()
    parsed = [parser.parse_known_args([name, *options]) for name in (*COMMANDS, "report")]
    strange = set(options).intersection(*(unknown for _, unknown in parsed))
    if strange:
        parser.error(f"no command knows {' '.join(sorted(strange))}")
    for args, _ in parsed[:-1]:
        print(f"\n# {args.command}\n", flush=True)
        measure(args)
    report.write(parsed[-1][0].output, parsed[-1][0].results)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    if list(arguments[:1]) == ["all"] and not {"-h", "--help"} & set(arguments):
        measure_all(arguments[1:])
        return
    args = make_parser().parse_args(arguments)
    if args.command == "report":
        report.write(args.output, args.results)
    else:
        measure(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BreadcrumbError as why:
        sys.exit(str(why))
