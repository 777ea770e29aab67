"""What a patch does, found out on models composed here: bisect and leave-one-out."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.actions import composing, transfers
from client.trials import running
from client.trials.bench import Candidate, ScaledPatch, exact_scale
from client.trials.bisect import PatchChange, Verdict, apply, difference, judge, search
from client.trials.running import run_command
from client.trials.scores import read_number
from registry import errors
from tests.support import makers
from tests.support.visitors import Crumb, Registry, eventually

COUNT = 6  # patches of the model
CULPRIT = 4
BASE = "sha256:" + "0" * 64
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


# The search -------------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_search_finds_the_first_bad_in_log2_trials_and_what_cannot_be_told_leaves_suspects(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 200))
    first_bad = data.draw(st.integers(1, count))
    skipped = data.draw(st.sets(st.integers(1, count - 1))) if count > 1 and data.draw(st.booleans()) else set()
    tried: list[int] = []

    def test(place: int) -> Verdict:
        tried.append(place)
        return "skip" if place in skipped else "bad" if place >= first_bad else "good"

    low, high = search(count, test)
    assert low == max(place for place in range(first_bad) if place not in skipped)
    assert high == min(place for place in range(first_bad, count + 1) if place not in skipped)
    assert len(tried) == len(set(tried))
    assert set(tried) <= set(range(1, count))
    if not skipped:
        assert len(tried) <= math.ceil(math.log2(count))


def test_a_long_row_that_cannot_be_told_is_left_behind_at_once() -> None:
    tried: list[int] = []

    def test(place: int) -> Verdict:
        tried.append(place)
        return "skip" if 400 < place < 600 else "bad" if place >= 900 else "good"

    assert search(1000, test) == (899, 900)
    assert len(tried) < 20


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, "good"), (1, "bad"), (2, "bad"), (124, "bad"), (125, "skip"), (126, "bad"), (127, "bad")],
)
def test_exit_codes_say_what_they_say_to_git(code: int, verdict: str) -> None:
    assert judge(code, "it") == verdict


@pytest.mark.parametrize("code", [128, 129, 255, -1, -9])
def test_any_other_exit_code_and_a_signal_end_the_search(code: int) -> None:
    with pytest.raises(errors.JobFailed, match="signal" if code < 0 else str(code)):
        judge(code, "it")


# Candidates -------------------------------------------------------------------------------------------------------

scales = st.sampled_from(["0.3", "-1", "0", "0.15"])
recipes = st.dictionaries(st.integers(0, 9), st.tuples(st.sampled_from("ab"), scales))


def part(number: int, sha256: str, scale: str, revision: int = 1) -> ScaledPatch:
    item = SimpleNamespace(number=number, sha256=sha256, revision=revision, title=f"patch {number}", where=[])
    return ScaledPatch(item, scale)  # type: ignore[arg-type]


def candidate(given: Mapping[int, tuple[str, str]]) -> Candidate:
    parts = [part(number, f"{number:x}{half * 63}", scale) for number, (half, scale) in given.items()]
    return Candidate(BASE, tuple(parts))


@given(recipes, recipes)
def test_all_changes_make_one_recipe_the_other_and_each_is_of_one_patch(
    before: dict[int, tuple[str, str]], after: dict[int, tuple[str, str]]
) -> None:
    start, end = candidate(before), candidate(after)
    changes = difference(start, end)
    assert apply(start, changes, end).recipe() == end.recipe()
    assert apply(start, [], end).recipe() == start.recipe()
    numbers = [change.number for change in changes]
    assert numbers == sorted(numbers)
    unlisted = {half for found in (before, after) for number, (half, _) in found.items() if number == 0}
    assert numbers.count(0) <= len(unlisted)  # what is listed no longer stands for itself
    assert {number for number in numbers if number} == {
        number for number in {*before, *after} - {0} if before.get(number) != after.get(number)
    }


def test_changes_are_told_in_words() -> None:
    one, other, later = part(3, "a" * 64, "0.3"), part(3, "a" * 64, "0.15"), part(3, "b" * 64, "0.3", revision=2)
    assert PatchChange(3, (), (one,)).words == "added at 0.3"
    assert PatchChange(3, (one,), ()).words == "removed, was at 0.3"
    assert PatchChange(3, (one,), (other,)).words == "from 0.3 to 0.15"
    assert PatchChange(3, (one,), (later,)).words == "from revision 1 at 0.3 to revision 2 at 0.3"


def test_candidates_of_two_bases_are_not_compared() -> None:
    with pytest.raises(errors.InvalidRequest, match="base"):
        difference(Candidate(BASE, ()), Candidate(BASE[:-1] + "1", ()))


decimals = st.from_regex(r"-?[0-9]{1,10}(\.[0-9]{1,10})?", fullmatch=True)


@given(decimals, decimals)
def test_a_scale_is_the_exact_product_in_one_way_of_writing(alpha: str, weight: str) -> None:
    from registry.breadcrumbs.formats.recipe import normalise_decimal

    found = exact_scale(alpha, weight)
    assert Fraction(found) == Fraction(alpha) * Fraction(weight)
    assert normalise_decimal(found, "it") == found


@pytest.mark.parametrize(
    ("alpha", "weight"), [("9" * 20, "11"), ("0.00000000001", "0.0000000001"), ("0." + "3" * 20, "0.3")]
)
def test_a_scale_of_too_many_digits_is_refused_and_never_rounded(alpha: str, weight: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="20 digits"):
        exact_scale(alpha, weight)


def test_zeros_at_the_end_are_no_digits() -> None:
    assert exact_scale("0.5000000000", "0.20000000000") == "0.1"
    assert exact_scale("-0.5", "0") == "0"


# Commands ---------------------------------------------------------------------------------------------------------


def python(code: str, *more: str) -> list[str]:
    return [sys.executable, "-c", code, *more]


SHOW = "import os, sys, json; print(json.dumps([sys.argv[1:], os.environ['CRUMB_MODEL']]))"


def test_a_command_is_told_the_folder_without_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a b;$(c)"
    assert json.loads(run_command(python(SHOW), folder).output) == [[str(folder)], str(folder)]
    trial = run_command(python(SHOW, "-m={model}", "$HOME", "{model}/x{model}"), folder)
    assert json.loads(trial.output) == [[f"-m={folder}", "$HOME", f"{folder}/x{folder}"], str(folder)]


def test_a_commands_stdout_is_read_and_its_stderr_is_the_terminals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = run_command(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"), tmp_path)
    assert (trial.code, trial.output) == (7, "out\n")
    assert capfd.readouterr() == ("", "err\n")
    assert run_command(python("import os; os.kill(os.getpid(), 9)"), tmp_path).code == -9


def test_of_endless_output_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "OUTPUT", 1000)
    output = run_command(python("print('x' * 10**6); print('y' * 10**6); print(0.5)"), tmp_path).output
    assert len(output) == 1000
    assert read_number(output) == 0.5


@pytest.mark.parametrize("name", ["no-such-command", "./nowhere", ""])
def test_a_command_that_is_not_there_is_told_in_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"cannot be run"):
        run_command([name], tmp_path)
    with pytest.raises(errors.InvalidRequest, match=r"no command"):
        running.check_command([name])


def test_interrupted_no_command_stays_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    script = (
        "import pathlib, signal\nfrom client.trials.running import run_command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell runs us in the background
        f"run_command({python(code)!r}, pathlib.Path())"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    eventually(lambda: pid.exists() and pid.read_text() != "")
    process.send_signal(signal.SIGINT)  # to crumb alone, as `kill -INT` does
    assert process.wait(20) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


# Scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("0.5", 0.5),
        ("epoch 1\n-3\n\n  \n", -3.0),
        ('{"value": 1, "other": 2}\n', 1.0),
        ('{"accuracy": 0.25, "name": "x", "ok": true}', 0.25),
        ("1e3\n", 1000.0),
    ],
)
def test_a_score_is_read_from_the_last_line(output: str, score: float) -> None:
    assert read_number(output) == score


@pytest.mark.parametrize(
    "output",
    ["", "\n \n", "accuracy 0.5", "0.5\ndone", "NaN", "1e999", "true", '"0.5"', "[0.5]", '{"a": 1, "b": 2}', "null",
     '{"value": "1", "other": 2}', '{"value": NaN}', '{"value": true}', "1" * 400, "[" * 10000],
)  # fmt: skip
def test_what_is_no_score_is_told_with_what_to_print(output: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="print a number on the last line"):
        read_number(output)


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
    return python(READ + bad)


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
    assert crumb("bisect", model, "--good", "base", "-q", "--bad", all_of_it, "--", *python(code, *given)) == "#4\n"
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


def test_a_command_does_not_get_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.trials.running import run_command

    monkeypatch.setenv("CRUMB_TOKEN", "secret")
    code = "import os; print('CRUMB_TOKEN' in os.environ, os.environ['CRUMB_MODEL'])"
    assert run_command([sys.executable, "-c", code], tmp_path).output.split() == ["False", str(tmp_path)]
