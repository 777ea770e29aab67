import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from client.actions.downloads import lock_partial
from client.machine.folders import (
    OWN,
    Source,
    check_target,
    copy_others,
    inside,
    model_files,
    new_folder,
    read_source,
    write_source,
)
from client.machine.locks import locked
from client.terminal.console import Console
from registry import errors


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "path",
    [
        "../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", "a/", ".hidden", "a/.hidden", ".crumb/source.json",
        "C:\\x", "a\\b", "a\0b", "a\nb", "x" * 256, "a/./b", "a:b", "a/b.", "a /b",
    ],
)  # fmt: skip
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(errors.Unavailable):
        inside(tmp_path, [path])


@pytest.mark.parametrize(
    "path", ["model.safetensors", "a/b/c.json", "tokenizer+x/vocab @1.txt", "images/fig (1).png", "a..b"]
)
def test_a_plain_path_goes_into_the_folder(tmp_path: Path, path: str) -> None:
    assert inside(tmp_path, [path]) == [tmp_path.resolve() / path]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/out").symlink_to(tmp_path)
    with pytest.raises(errors.WrongState, match="link"):
        inside(tmp_path / "in", ["out/x"])


def test_nothing_is_written_through_a_link_in_the_place_of_our_own_folder(tmp_path: Path) -> None:
    for folder in ("target", "elsewhere"):
        (tmp_path / folder).mkdir()
    own = tmp_path / "target" / OWN
    own.symlink_to(tmp_path / "elsewhere")
    steps: tuple[Callable[[], object], ...] = (
        lambda: locked(own.parent, Console(quiet=True)).__enter__(),
        lambda: write_source(own.parent, Source("a/b", "main", "sha256:0")),
        lambda: lock_partial(own / "x.part").__enter__(),
    )
    for step in steps:
        with pytest.raises(errors.WrongState, match=r"\.crumb is a link"):
            step()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_names_that_differ_by_case_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="twice"):
        inside(tmp_path, ["a/README.md", "A/readme.md"])


def test_hidden_files_and_pickles_are_left_out(tmp_path: Path) -> None:
    for name in (
        "model.safetensors",
        "a.bin",
        "b.PT",
        "vocab.npy",
        ".git/config",
        "sub/x.json",
        "sub/.hidden",
        ".crumb/source.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.txt").touch()
    found, left_out = model_files(tmp_path)
    assert sorted(found) == ["empty.txt", "model.safetensors", "sub/x.json"]
    assert left_out == ["a.bin", "b.PT", "vocab.npy", ".git/config", "sub/.hidden"]


def test_a_folder_without_weights_or_with_a_strange_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.NotFound, match="safetensors"):
        model_files(tmp_path)
    (tmp_path / "wei\u00dfes.txt").write_text("x")
    with pytest.raises(errors.InvalidRequest, match="name"):
        model_files(tmp_path)


def test_a_file_of_a_person_is_left_alone_but_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert check_target(tmp_path, {"a": sha("a")}) == (["a"], [])
    with pytest.raises(errors.WrongState, match=r"thesis\.tex .* no pull brought"):
        check_target(tmp_path, {"thesis.tex": sha("a")})
    with pytest.raises(errors.WrongState, match="not a folder"):
        check_target(tmp_path / "thesis.tex", {"a": sha("a")})


def test_what_the_pull_would_bring_may_be_there_and_what_changed_may_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert check_target(tmp_path, {"a": sha("a"), "b": sha("b")}) == (["b"], [])
    (tmp_path / "a").write_text("mine")
    with pytest.raises(errors.WrongState, match="no pull brought"):
        check_target(tmp_path, {"a": sha("a")})
    write_source(tmp_path, Source("n/m", "base", "sha256:0", True, {"a": [sha("a")]}))
    with pytest.raises(errors.WrongState, match="changed"):
        check_target(tmp_path, {"a": sha("a")})


def test_an_earlier_pull_is_brought_up_to_date(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    source = Source("n/m", "base", "sha256:0", True, {name: [sha(name)] for name in "abc"})
    write_source(tmp_path, source)
    assert check_target(tmp_path, {"a": sha("a"), "b": sha("new")}) == (["b"], ["c"])
    assert read_source(tmp_path) == source


def test_a_note_cannot_have_a_file_outside_the_folder_removed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("a")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    write_source(folder, Source("n/m", "base", "", True, {"../victim": [sha("a")], "out/victim": [sha("a")]}))
    assert check_target(folder, {}) == ([], [])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"model": 1}', '{"model":"","ref":"","weights_digest":"","files":[]}', '{"files": {"a": 1}}'],
)
def test_a_damaged_note_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".crumb").mkdir()
    (tmp_path / ".crumb/source.json").write_text(text)
    assert read_source(tmp_path) is None


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "x") as out:
        (out / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "x") as out:
        (out / "a").write_text("a")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x/a").read_text() == "a"
    with pytest.raises(errors.WrongState), new_folder(tmp_path / "x"):
        pass


def test_other_files_of_a_base_come_along(tmp_path: Path) -> None:
    for name in ("base/model.safetensors", "base/README.md", "base/t/vocab.txt", "base/x.bin", "base/.git/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "out").mkdir()
    copy_others(tmp_path / "base", tmp_path / "out", [])
    found = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found == ["t/vocab.txt"]
