"""Trials on a registry: bisect and leave-one-out find the patch, and leave nothing behind."""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.actions import composing, transfers
from tests.support import makers
from tests.support.visitors import Crumb, Registry

COUNT = 6  # patches of the model
CULPRIT = 4
READ = """\
import json, os, pathlib, sys
def read(folder, row, tensor="embed.weight"):
    for file in pathlib.Path(folder).glob("*.safetensors"):
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        if tensor in header:
            import struct
            return struct.unpack_from("<f", data, 8 + size + header[tensor]["data_offsets"][0] + row * 64)[0]
"""
BAD = 5.0  # a model is bad whose weight [0, 0] is greater: only the culprit adds so much


# On a registry ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = makers.make_checkpoint(tmp_path_factory.mktemp("trials") / "base", shards=2)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return folder


@pytest.fixture(scope="module")
def model(registry: Registry, base: Path) -> str:
    """A model with six patches: #n adds n to the weight [n, 0], and #4 also adds 20 to [0, 0]."""
    from client.actions.models import create
    from client.actions.push import push

    with registry.client() as client:
        create(client, "ana/tried", base)
        for number in range(1, COUNT + 1):
            tuned = makers.read_weights(base)
            tuned["embed.weight"][number, 0] += number
            tuned["embed.weight"][0, 0] += 20 * (number == CULPRIT)
            makers.write_weights(base.with_name(f"tuned-{number}"), tuned)
            patch = base.with_name(f"{number}.safetensors")
            makers.make_patch(base, base.with_name(f"tuned-{number}"), patch, drop_bottom="0", drop_top="0")
            assert push(client, patch, "ana/tried", f"patch {number}").number == number
    return "ana/tried"


@pytest.fixture
def all_of_it(here: Registry, model: str, crumb: Crumb) -> str:
    """The recipe of all patches, at 0.5."""
    items = [str(number) for number in range(1, COUNT + 1)]
    return str(json.loads(crumb("compose", model, *items, "--alpha", "0.5", "--json"))["recipe"]["digest"])


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def judging(bad: str = "sys.exit(read(sys.argv[1], 0) > 5)") -> list[str]:
    return [sys.executable, "-c", READ + bad]


def test_bisect_finds_the_patch_and_leaves_nothing_behind(
    here: Registry, model: str, all_of_it: str, crumb: Crumb, scratch: Path
) -> None:
    arguments = ["bisect", model, "--good", "base", "--bad", all_of_it[:10]]
    found = json.loads(crumb(*arguments, "--json", "--", *judging()))
    assert found["found"] is True
    assert [(change["number"], change["change"]) for change in found["suspects"]] == [(CULPRIT, "added at 0.5")]
    assert [change["number"] for change in found["changes"]] == list(range(1, COUNT + 1))
    assert [step["applied"] for step in found["steps"][:2]] == [0, COUNT]
    assert len(found["steps"]) <= math.ceil(math.log2(COUNT)) + 2
    assert list(scratch.iterdir()) == []
    assert "changes: good (exit code 0)" in crumb.errors

    assert crumb(*arguments, "-q", "--no-verify-ends", "--", *judging()) == f"#{CULPRIT}\n"
    assert crumb.errors == ""
    text = crumb(*arguments, "--", *judging(), CRUMB_TOKEN="")  # who only reads bisects as well
    assert text.startswith("The first bad change is #4 patch 4 (added at 0.5).\n")


def test_bisect_goes_from_any_recipe_to_any_other(here: Registry, model: str, all_of_it: str, crumb: Crumb) -> None:
    good = crumb("compose", model, "1", "2:2", "5", "4:0.1", "--alpha", "0.5", "-q").split()[0]
    arguments = ["bisect", model, "--good", good, "--bad", all_of_it]
    found = json.loads(crumb(*arguments, "--json", "--", *judging()))
    changes = {change["number"]: change["change"] for change in found["changes"]}
    assert changes == {2: "from 1 to 0.5", 3: "added at 0.5", 4: "from 0.05 to 0.5", 6: "added at 0.5"}
    assert [change["number"] for change in found["suspects"]] == [CULPRIT]
    removed = ["bisect", model, "--good", all_of_it, "--bad", "base"]  # what is bad may be that something is gone
    found = json.loads(crumb(*removed, "--json", "--", *judging("sys.exit(read(sys.argv[1], 2) < 0.5)")))
    assert [change["change"] for change in found["suspects"]] == ["removed, was at 0.5"]
    assert [change["number"] for change in found["suspects"]] == [2]


def test_a_candidate_is_the_very_model_that_the_registry_composes(
    here: Registry, model: str, all_of_it: str, crumb: Crumb, base: Path
) -> None:
    arguments = ["bisect", model, "--good", "base", "--bad", all_of_it, "--keep", "kept", "-q", "--"]
    crumb(*arguments, *judging())
    crumb("pull", f"{model}@{all_of_it}", "-o", "pulled")
    kept = sorted((crumb.cwd / "kept").iterdir())
    assert {"0-of-6", "6-of-6"} < {folder.name for folder in kept}
    for folder, source in ((kept[0], base), (kept[-1], crumb.cwd / "pulled")):
        compared = ["diff", "-r", "-x", ".crumb", "-x", "README.md", folder, source]
        subprocess.run(compared, check=True)
    crumb(*arguments, *judging(), code=1)
    assert "is there already" in crumb.errors


def test_ends_that_are_not_what_they_are_said_to_be_are_named(
    here: Registry, model: str, all_of_it: str, crumb: Crumb
) -> None:
    crumb("bisect", model, "--good", all_of_it, "--bad", "base", "--", *judging(), code=1)
    assert f"{model}@{all_of_it}, given as good, is bad" in crumb.errors
    assert "swapped" in crumb.errors
    crumb("bisect", model, "--good", "base", "--bad", all_of_it, "--", *judging("sys.exit(0)"), code=1)
    assert f"{model}@{all_of_it}, given as bad, is good" in crumb.errors
    crumb("bisect", model, "--good", "base", "--bad", all_of_it, "--", *judging("sys.exit(125)"), code=1)
    assert f"cannot judge {model}@base" in crumb.errors
    crumb("bisect", model, "--good", "base", "--bad", "base", "--", *judging(), code=1)
    assert "the same recipe" in crumb.errors


def test_what_cannot_be_told_leaves_suspects(
    here: Registry, model: str, all_of_it: str, crumb: Crumb, scratch: Path
) -> None:
    arguments = ["bisect", model, "--good", "base", "--bad", all_of_it, "--json", "--"]
    count = "found = sum(read(sys.argv[1], row) > 0.3 for row in range(1, 7))\n"
    skips = judging(count + "sys.exit(125 if found in (3, 4) else read(sys.argv[1], 0) > 5)")
    found = json.loads(crumb(*arguments, *skips, code=1))
    assert [change["number"] for change in found["suspects"]] == [3, 4, 5]
    assert found["found"] is False
    found = json.loads(crumb(*arguments, *judging(count + "sys.exit(125 * (0 < found < 6) or found == 6)"), code=1))
    assert [change["number"] for change in found["suspects"]] == list(range(1, COUNT + 1))
    assert len(found["steps"]) == COUNT + 1  # both ends and all between, each once
    other = judging(count + "sys.exit(125 if found == 3 and read(sys.argv[1], 0) < 5 else found >= 2)")
    found = json.loads(crumb(*arguments, *other))
    assert [change["number"] for change in found["suspects"]] == [2]
    assert "3 of 6 changes: skip (exit code 125)" in crumb.errors


def test_a_candidate_that_overflows_cannot_be_told(here: Registry, base: Path, crumb: Crumb, scratch: Path) -> None:
    from client.actions.models import create
    from client.actions.push import push

    with here.client() as client:
        create(client, "ana/huge", base)
        for number, change in ((1, 2.5e38), (2, 2.0e38), (3, -2.5e38)):
            tuned = makers.read_weights(base)
            tuned["embed.weight"][0, 0] += change
            makers.write_weights(crumb.cwd / f"tuned-{number}", tuned)
            patch = crumb.cwd / f"{number}.safetensors"
            makers.make_patch(base, crumb.cwd / f"tuned-{number}", patch, drop_bottom="0", drop_top="0")
            push(client, patch, "ana/huge", "huge")
    ref = crumb("compose", "ana/huge", "1", "2", "3", "--alpha", "1", "-q").split()[0]
    command = judging("sys.exit(1e38 < read(sys.argv[1], 0) < 2.2e38)")
    found = json.loads(crumb("bisect", "ana/huge", "--good", "base", "--bad", ref, "--json", "--", *command, code=1))
    assert [(step["applied"], step["verdict"], step["code"]) for step in found["steps"]] == [
        (0, "good", 0),
        (3, "bad", 1),
        (1, "good", 0),
        (2, "skip", None),
    ]
    assert [change["number"] for change in found["suspects"]] == [2, 3]
    assert "2 of 3 changes: skip (the composition overflows)" in crumb.errors


@pytest.mark.parametrize(
    ("end", "words"), [("sys.exit(128)", "exit code 128"), ("os.kill(os.getpid(), 15)", "signal 15")]
)
def test_a_command_can_end_the_search(
    end: str, words: str, here: Registry, model: str, all_of_it: str, crumb: Crumb, scratch: Path
) -> None:
    bad = f"\nif 0 < read(sys.argv[1], 1) and read(sys.argv[1], 6) < 1: {end}\nsys.exit(read(sys.argv[1], 0) > 5)"
    crumb("bisect", model, "--good", "base", "--bad", all_of_it, "-q", "--", *judging(bad), code=1)
    assert f"{model}@base with 3 of 6 changes: {words}" in crumb.errors
    assert crumb.errors.count("\n") == 1
    assert list(scratch.iterdir()) == []


def test_a_command_that_is_not_there_is_told_before_anything_travels(
    here: Registry, model: str, all_of_it: str, crumb: Crumb, home: Path
) -> None:
    shutil.rmtree(home, ignore_errors=True)
    for arguments in (["bisect", model, "--good", "base", "--bad", all_of_it], ["loo", f"{model}@{all_of_it}"],
                      ["eval", "run", f"{model}@base"]):  # fmt: skip
        crumb(*arguments, "--", "no-such-command", code=1)
        assert "no command 'no-such-command'" in crumb.errors
        crumb(*arguments, code=2)
    assert not (home / "cache").exists()


def test_what_follows_two_dashes_reaches_the_command_untouched(
    here: Registry, model: str, all_of_it: str, crumb: Crumb
) -> None:
    code = (
        READ
        + "pathlib.Path('seen').write_text(json.dumps(sys.argv[1:]))\nsys.exit(read(os.environ['CRUMB_MODEL'], 0) > 5)"
    )
    given = ["--json", "-q", "--good", "x", "--", "--help", "{model}.", "*", ""]
    assert (
        crumb("bisect", model, "--good", "base", "-q", "--bad", all_of_it, "--", sys.executable, "-c", code, *given)
        == "#4\n"
    )
    seen = json.loads((crumb.cwd / "seen").read_text())
    assert seen[:6] == given[:6]
    assert seen[7:] == given[7:]
    assert seen[6].endswith("6.")


def test_base_and_patches_are_fetched_once_for_all_candidates(
    here: Registry, model: str, all_of_it: str, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("download_patch", "download_snapshot"):
        download: Callable[..., None] = getattr(transfers, name)

        def counted(*a: Any, name: str = name, download: Callable[..., None] = download, **k: Any) -> None:
            calls.append(name)
            download(*a, **k)

        monkeypatch.setattr(composing, name, counted)
    crumb("bisect", model, "--good", "base", "--bad", all_of_it, "-q", "--", *judging())
    assert calls == ["download_snapshot", *["download_patch"] * COUNT]


def test_loo_shows_what_each_patch_adds(
    here: Registry, model: str, all_of_it: str, crumb: Crumb, scratch: Path
) -> None:
    score = judging("print('row', 0)\nprint(json.dumps({'value': sum(read(sys.argv[1], row) for row in range(7))}))")
    found = json.loads(crumb("loo", f"{model}@{all_of_it}", "--json", "--", *score))
    assert [one["number"] for one in found["without"]] == list(range(1, COUNT + 1))
    for one in found["without"]:
        assert one["difference"] == pytest.approx(0.5 * (one["number"] + 20 * (one["number"] == CULPRIT)), abs=1e-5)
        assert one["score"] == pytest.approx(found["score"] - one["difference"])
        assert (one["scale"], one["title"]) == ("0.5", f"patch {one['number']}")
    assert list(scratch.iterdir()) == []
    text = crumb("loo", f"{model}@{all_of_it}", "--", *score)
    assert "+12" in next(line for line in text.splitlines() if line.lstrip().startswith("#4"))
    crumb("loo", f"{model}@base", "--", *score, code=1)
    assert "no patches" in crumb.errors


def test_loo_names_the_model_on_which_the_command_fails(
    here: Registry, model: str, all_of_it: str, crumb: Crumb
) -> None:
    ref = f"{model}@{all_of_it}"
    crumb("loo", ref, "-q", "--", *judging("print(1); sys.exit(3 if read(sys.argv[1], 2) < 0.5 else 0)"), code=1)
    assert f"failed on {ref} without #2: exit code 3" in crumb.errors
    crumb("loo", ref, "-q", "--", *judging("print(1 if read(sys.argv[1], 5) > 0.5 else 'none')"), code=1)
    assert f"On {ref} without #5 the command's last line is 'none'" in crumb.errors
