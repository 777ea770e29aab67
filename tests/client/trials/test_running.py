"""What trials are made of: the search of bisect, exact scales, commands and the scores that they print."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.trials import running
from client.trials.bench import Candidate, ScaledPatch, exact_scale
from client.trials.bisect import PatchChange, Verdict, apply, difference, judge, search
from client.trials.running import run_command
from client.trials.scores import read_number
from registry import errors
from tests.support.visitors import eventually

BASE = "sha256:" + "0" * 64


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


def test_a_command_does_not_get_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.trials.running import run_command

    monkeypatch.setenv("CRUMB_TOKEN", "secret")
    code = "import os; print('CRUMB_TOKEN' in os.environ, os.environ['CRUMB_MODEL'])"
    assert run_command([sys.executable, "-c", code], tmp_path).output.split() == ["False", str(tmp_path)]
