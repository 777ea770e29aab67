"""Documents of a primary: paths, and values in columns of JSON, are held to what this registry makes itself."""

from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Integer, Uuid

from registry.db.tables import BaseFile, CardProposal, Channel, Comment, Model, PatchRevision, Release, UTCDateTime
from registry.documents.versions import parse_version
from registry.errors import InvalidRequest
from registry.schemas import wire
from registry.services.curation import cards
from registry.services.mirroring import documents
from registry.services.mirroring.carried import TABLES
from registry.services.mirroring.documents import LISTS, read_person, read_rows, read_space, read_value

RUN = {"kind": "github", "issuer": "https://token.example.org", "claims": {"repository": "a/b"}, "url": None}


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (PatchRevision, "origin", RUN | {"url": "javascript:alert(1)"}),
        (PatchRevision, "origin", RUN | {"claims": "all of them"}),
        (PatchRevision, "origin", {"kind": "github"}),
        (Comment, "about", 5),
        (Comment, "about", [["layers.*"]]),
        (Model, "required_evaluations", {"sum": 1}),
        (Model, "mask", ["0.85"]),
        (Model, "dtypes", {"F32": {"count": 1}}),
        (Model, "dtypes", dict.fromkeys(map(str, range(2000)), 1)),
        (Model, "card", "x" * (2**19 + 1)),
        (Comment, "message", "x" * (2**16 + 1)),
        (Comment, "message", "\N{EURO SIGN}" * 2**15),
    ],
)
def test_a_value_of_another_shape_is_refused(table: Any, column: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=column):
        read_value(TABLES[table], column, value)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (PatchRevision, "origin", RUN | {"url": "https://ci.example.org/runs/7"}),
        (Comment, "about", ["layers.0.*"]),
        (Model, "mask", {"drop_bottom": "0.9"}),
        (Model, "dtypes", {"F32": 12}),
    ],
)
def test_what_registries_make_is_taken(table: Any, column: str, value: Any) -> None:
    assert read_value(TABLES[table], column, value) == value


@pytest.mark.parametrize("path", ["../README.md", "/etc/passwd", "pytorch_model.bin", "a\\b.safetensors"])
def test_a_file_has_a_path_that_pushes_take(path: str) -> None:
    row = {name: "0" * 64 if name.endswith("sha256") else None for name in TABLES[BaseFile].columns}
    row |= {"model_id": "0" * 32, "path": path, "size": 1}
    with pytest.raises(InvalidRequest, match=r"path|pickle"):
        read_rows([("base_files", {name: row[name] for name in TABLES[BaseFile].columns})])


def test_texts_are_as_long_as_those_of_users_at_most() -> None:
    assert documents.MESSAGE_BYTES == wire.MESSAGE_BYTES


def make_row(table: Any, **values: Any) -> tuple[str, dict[str, Any]]:
    """Return a row that is sound but for what is given."""
    one, row = TABLES[table], dict[str, Any]()
    for name, column in one.columns.items():
        kind = column.type
        if column.nullable:
            row[name] = None
        elif isinstance(kind, JSON):
            row[name] = [] if name in LISTS else {}
        elif isinstance(kind, Boolean):
            row[name] = False
        elif isinstance(kind, Integer):
            row[name] = 1
        elif isinstance(kind, Uuid):
            row[name] = "0" * 32
        elif isinstance(kind, UTCDateTime):
            row[name] = "2026-01-01T00:00:00+00:00"
        else:
            row[name] = "x"
    return one.name, {**row, **values}


@pytest.mark.parametrize(
    ("table", "values", "why"),
    [
        (Model, {"name": "api"}, "reserved"),
        (Model, {"source": "hf://org/name@main"}, "pinned"),
        (Model, {"source": "hf://org/name/../../x@" + "0" * 40}, "pinned"),
        (Channel, {"name": "main"}, "not a valid channel name"),
        (Release, {"version": "base"}, "not a version"),
    ],
)
def test_a_name_that_could_be_taken_for_another_is_refused(table: Any, values: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        read_rows([make_row(table, **values)])
    with pytest.raises(InvalidRequest, match="reserved"):
        read_space("0" * 32, "api", "organisation")
    assert read_person("0" * 32, "admin", "", False, "0" * 32).name == "admin", "as operators may call one here"


def test_what_follows_from_other_values_is_computed_here() -> None:
    rows = read_rows(
        [
            make_row(Model),
            make_row(Release, version="1.2.0-rc.1", sort="zzzz"),
            make_row(CardProposal, card="# A card", commit="c" * 40),
        ]
    )
    assert rows[Release][0]["sort"] == parse_version("1.2.0-rc.1").sort_key
    assert rows[CardProposal][0]["commit"] == cards.commit_of("# A card") != "c" * 40
