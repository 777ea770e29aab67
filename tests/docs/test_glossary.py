"""The glossary: its terms have a meaning, and are in the code."""

import functools
import importlib
import inspect
import re

import pytest

from tests.support.sources import ROOT

GLOSSARY = (ROOT / "docs/concepts/glossary.md").read_text("utf-8")


def glossary() -> dict[str, tuple[str, list[str]]]:
    """Return the meaning of each term of the glossary, and what it names in the code."""
    lines = [line for line in GLOSSARY.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {term: (meaning, re.findall(r"`([^`]+)`", names)) for term, meaning, names in rows}


def find(name: str) -> object:
    """Return what a dotted name stands for: a module, or something in one."""
    parts, rest = name.split("."), []
    while True:
        try:
            value: object = importlib.import_module(".".join(parts))
            break
        except ModuleNotFoundError:
            rest.insert(0, parts.pop())  # ends with an error once nothing is left to import
    return functools.reduce(getattr, rest, value)


def test_a_term_of_the_glossary_has_a_meaning_and_one_line() -> None:
    lines = [line for line in GLOSSARY.splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(glossary()) > 25
    assert [term for term, (meaning, _) in glossary().items() if not meaning.endswith(".")] == []


@pytest.mark.parametrize("name", sorted({name for _, names in glossary().values() for name in names}))
def test_what_the_glossary_names_is_in_the_code(name: str) -> None:
    assert find(name) is not None


@pytest.mark.parametrize("module", ["registry.db.tables", "registry.services.people.rules"])
def test_a_term_that_is_the_name_of_a_class_names_it(module: str) -> None:
    classes = {name for name, _ in inspect.getmembers(importlib.import_module(module), inspect.isclass)}
    unnamed = []
    for term, (_, names) in glossary().items():
        expected = term.title().replace(" ", "").replace("_", "")
        if expected in classes and f"{module}.{expected}" not in names:
            unnamed.append(term)
    assert unnamed == []
