"""Servers and workers of the version before run on while a database is migrated: migrations only add to it."""

import ast
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from registry.db.session import migrations_config

FIRST = "6f3d90b8a1c5"  # from here on
CONTRACTS = "CONTRACTS"
"""A module's variable: why what a migration removes is needed by no version that can still be running."""
REMOVING = {"drop_column", "drop_table", "rename_table"}
CHANGING = {"new_column_name", "type_"}  # arguments of alter_column
WORDS = ("DROP COLUMN", "DROP TABLE", "RENAME")


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def given(node: ast.Call) -> dict[str | None, ast.expr]:
    return {word.arg: word.value for word in node.keywords}


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def shrinks(source: str) -> list[str]:
    """Return what the upgrade of a migration does that a running older version does not survive."""
    tree = ast.parse(source)
    names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
    if CONTRACTS in names:
        return []
    (upgrade,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"]
    found = []
    for node in ast.walk(upgrade):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [word for word in WORDS if word in node.value.upper()]
        if not isinstance(node, ast.Call):
            continue
        name, words = called(node), given(node)
        if name in REMOVING or (name == "alter_column" and CHANGING & set(words)):
            found.append(name)
        if name == "alter_column" and is_constant(words.get("nullable"), False):
            found.append("a column that has to be filled")
        if name == "add_column":
            (column,) = [word for word in node.args if isinstance(word, ast.Call) and called(word) == "Column"]
            rules = given(column)
            if is_constant(rules.get("nullable"), False) and "server_default" not in rules:
                found.append("a new column that has to be filled")
    return found


def newer() -> list[Path]:
    script = ScriptDirectory.from_config(migrations_config("sqlite://"))
    return [Path(found.path) for found in script.iterate_revisions("head", FIRST, inclusive=True)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", newer(), ids=lambda file: file.stem)
def test_a_migration_only_adds(file: Path) -> None:
    assert shrinks(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "op.drop_column('jobs', 'size')",
        "op.drop_table('jobs')",
        "op.rename_table('jobs', 'work')",
        "op.execute('ALTER TABLE jobs drop column size')",
        "op.alter_column('jobs', 'size', new_column_name='bytes')",
        "op.alter_column('jobs', 'size', nullable=False)",
        "op.add_column('jobs', sa.Column('size', sa.BigInteger(), nullable=False))",
        "batch.add_column(sa.Column('size', sa.BigInteger(), nullable=False))",
    ],
)
def test_what_an_older_version_does_not_survive_is_seen(line: str) -> None:
    assert len(shrinks(f"def upgrade():\n    {line}\n")) == 1
    assert shrinks(f"CONTRACTS = 'since 0.9 nothing reads it'\ndef upgrade():\n    {line}\n") == []


def test_what_it_survives_is_allowed() -> None:
    lines = [
        "op.create_table('jobs', sa.Column('size', sa.BigInteger(), nullable=False))",
        "op.add_column('jobs', sa.Column('size', sa.BigInteger(), nullable=False, server_default='0'))",
        "op.add_column('jobs', sa.Column('at', sa.DateTime(), nullable=True))",
        "batch.drop_constraint('kind', type_='check')",
    ]
    assert shrinks("def upgrade():\n" + "".join(f"    {line}\n" for line in lines)) == []
