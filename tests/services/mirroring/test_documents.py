"""Documents of a primary: paths, and values in columns of JSON, are held to what this registry makes itself."""

from typing import Any

import pytest

from registry.db.tables import BaseFile, Comment, Model, PatchRevision
from registry.errors import InvalidRequest
from registry.services.mirroring.carried import TABLES
from registry.services.mirroring.documents import read_rows, read_value

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
