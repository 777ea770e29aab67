"""One word, one thing: no two classes of the client share a name."""

import ast
from collections import Counter
from pathlib import Path

import client


def test_class_names_are_unique() -> None:
    files = Path(client.__path__[0]).rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert len(names) > 30
    assert [name for name, count in names.items() if count > 1] == []
