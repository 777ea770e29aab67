"""The pages that are written by hand: links lead somewhere, walks arrive, README stays short."""

import re
import shlex
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import pytest
import typer

from client.cli import app as crumb
from registry.cli import app as crumb_server
from registry.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf-8")
ASSIGNED = re.compile(r"[A-Z_]+=")  # a variable before a command
WALKS = re.findall(r"^(`[^`]+` → .*): `(.*)`$", ARCHITECTURE, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        if not link.startswith(("http://", "https://", "mailto:")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text("utf-8")), link


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, waiting = set(), [ROOT / "README.md", ROOT / "docs/README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text("utf-8")):
            if not link.startswith("http") and (page.parent / link).exists():
                waiting.append(page.parent / link)
    outside = {ROOT / "docs/pypi.md"}  # shown by package indexes
    assert {page for page in PAGES if page.resolve() not in reached} - outside == set()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 110


def test_there_are_ten_questions_and_each_has_a_walk() -> None:
    assert ARCHITECTURE.split("## Ten questions", 1)[1].count("\n### ") == len(WALKS) == 10


@pytest.mark.parametrize(("walk", "word"), WALKS)
def test_a_walk_arrives_at_a_file_with_the_answer(walk: str, word: str) -> None:
    file = ROOT.joinpath(*re.findall(r"`([^`]+)`", walk))
    assert word in file.read_text("utf-8")


def test_paths_named_in_architecture_and_contributing_exist() -> None:
    text = re.sub(r"<!-- tree -->.*<!-- end of tree -->", "", ARCHITECTURE, flags=re.DOTALL)
    text += (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:registry|client|tests|docs|migrations|benchmarks)/[\w./-]*[\w])`", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def typed() -> list[str]:
    """Return every call of our commands in the bash blocks of all pages, as somebody would type it."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            for line in re.split(r"\n|&&", re.sub(r"\\\n", " ", block)):
                words = list(dropwhile(ASSIGNED.match, shlex.split(line, comments=True)))
                if words and words[0].rsplit("/", 1)[-1] in ("crumb", "crumb-server"):
                    found[shlex.join(words)] = None
    return list(found)


@cache
def command_of(program: str) -> Any:
    """Return the command that a program runs."""
    return typer.main.get_command(crumb if program == "crumb" else crumb_server)


@pytest.mark.parametrize("line", typed())
def test_a_command_takes_the_arguments_that_a_page_gives_it(line: str) -> None:
    program, *words = takewhile(lambda word: word not in ("&", "||"), shlex.split(line))
    command = command_of(program.rsplit("/", 1)[-1])
    while hasattr(command, "commands"):
        words = command.spell_out(words) if hasattr(command, "spell_out") else words
        command = command.commands[words.pop(0)]
    command.make_context(line, words)  # wrong usage is an exception; the command itself is not run


def test_every_setting_that_a_page_names_is_one() -> None:
    known = {f"REGISTRY_{name.upper()}" for name in Settings.model_fields} | {"REGISTRY_CONFIG"}
    others = {"REGISTRY_TEST_KILLS", "REGISTRY_TEST_RECIPES", "REGISTRY_PORT", "REGISTRY_HOST"}  # tests', Docker's
    named = {name for page in PAGES for name in re.findall(r"REGISTRY_[A-Z_]*[A-Z]", page.read_text("utf-8"))}
    assert {name for name in named - known - others if not any(one.startswith(f"{name}_") for one in known)} == set()
