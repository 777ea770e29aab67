"""`crumb eval` on a real registry: by hand, from files of harnesses, and by commands that are run on models."""

import csv
import io
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from client.trials.evaluating import Names, read_scores
from registry import errors
from registry.schemas import Score
from tests.support import makers
from tests.support.visitors import Crumb, Registry

HERE = Path(__file__).parent / "results"
LM_EVAL = HERE / "lm-eval.json"
FULL = {"task": "math", "dataset": "gsm8k", "metric": "accuracy", "value": 0.5}
WHOLE = Score(task="math", dataset="gsm8k", metric="accuracy", value=0.5)
READ = """\
import json, os, pathlib, struct, sys
def read(folder, row):
    data = next(pathlib.Path(folder).glob("*.safetensors")).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return struct.unpack_from("<f", data, 8 + size + header["embed.weight"]["data_offsets"][0] + row * 64)[0]
"""


# What a command prints --------------------------------------------------------------------------------------------


def test_scores_are_read_in_all_their_forms() -> None:
    for printed in (json.dumps(FULL), json.dumps([FULL], indent=1), "loading\n" + json.dumps(FULL) + "\n\n"):
        assert read_scores(printed) == ([WHOLE], {})
    assert read_scores('{"accuracy": 0.5}', Names("math", "gsm8k")) == ([WHOLE], {})
    assert read_scores("done\n0.5", Names("math", "gsm8k", "accuracy")) == ([WHOLE], {})
    assert read_scores('{"value": 0.5, "seconds": 3}', Names("math", "gsm8k", "accuracy")) == ([WHOLE], {})
    partly = {"metric": "loss", "value": 1, "stderr": 0.5, "higher_is_better": False, "dataset": "other"}
    loss = Score(task="art", dataset="other", metric="loss", value=1.0, stderr=0.5, higher_is_better=False)
    assert read_scores(json.dumps([FULL, partly]), Names("art", "none")) == ([WHOLE, loss], {})


def test_numbers_take_the_names_that_are_given_beside_them() -> None:
    (found,), _ = read_scores("0.25", Names("math", higher_is_better=False))
    assert (found.task, found.dataset, found.metric, found.higher_is_better) == ("math", "math", "score", False)


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "perplexity", "word_perplexity", "Loss", "wer"])
def test_a_loss_that_does_not_say_so_is_better_when_it_falls(metric: str) -> None:
    for printed in (json.dumps({metric: 9.5}), json.dumps({**FULL, "metric": metric, "value": 9.5})):
        (found,), _ = read_scores(printed, Names("noise"))
        assert found.higher_is_better is False
    (found,), _ = read_scores("9.5", Names("noise", metric=metric))
    assert found.higher_is_better is False
    (found,), _ = read_scores("9.5", Names("noise", metric=metric, higher_is_better=True))
    assert found.higher_is_better is True
    (found,), _ = read_scores(json.dumps({**FULL, "metric": metric, "higher_is_better": True}))
    assert found.higher_is_better is True


def test_numbers_without_a_task_are_only_numbers() -> None:
    assert read_scores("0.5") == ([], {"score": 0.5})
    assert read_scores('{"accuracy": 0.5, "f1": 1}') == ([], {"accuracy": 0.5, "f1": 1.0})
    assert read_scores('{"metric": "f1", "value": 1}') == ([], {"f1": 1.0})


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", "printed no evaluations"),
        ("accuracy 0.5", "printed no evaluations"),
        ([], "printed no evaluations"),
        ([FULL, 3], "printed no evaluations"),
        ({}, "printed no evaluations"),
        ([FULL, {"metric": "f1", "value": 1}], "task must be .* --task"),
        ({**FULL, "value": "0.5"}, "value must be a finite number"),
        ({**FULL, "value": True}, "value must be a finite number"),
        ({**FULL, "value": math.nan}, "value must be a finite number"),
        ({**FULL, "value": math.inf}, "value must be a finite number"),
        ({**FULL, "stderr": math.nan}, "stderr must be a finite number"),
        ({**FULL, "stderr": -1}, "stderr must not be below zero"),
        ({**FULL, "higher_is_better": 1}, "higher_is_better must be"),
        ({**FULL, "metric": ""}, "metric must be"),
        ({**FULL, "metric": "a\u001b[31m"}, "metric must be"),
        ({**FULL, "task": "x" * 101}, "task must be"),
        ({**FULL, "dataset": 3}, "dataset must be"),
        ({**FULL, "split": "test"}, "'split' is not a key"),
        ([FULL, FULL], "twice"),
        ({"value": "much"}, "is not a score"),
        ({"accuracy": "much"}, "value must be a finite number"),
    ],
)
def test_what_is_not_a_score_is_refused(printed: object, words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        read_scores(printed if isinstance(printed, str) else json.dumps(printed))


# On a registry ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.make_checkpoint(tmp_path_factory.mktemp("evals") / "base", shards=1)


@pytest.fixture(scope="module")
def model(registry: Registry, base: Path) -> str:
    """A model with three patches: #n adds n to the weight [n, 0]."""
    from client.actions.models import create
    from client.actions.push import push

    with registry.client() as client:
        create(client, "ana/measured", base)
        for number in range(1, 4):
            tuned = makers.read_weights(base)
            tuned["embed.weight"][number, 0] += number
            makers.write_weights(base.with_name(f"tuned-{number}"), tuned)
            patch = base.with_name(f"{number}.safetensors")
            makers.make_patch(base, base.with_name(f"tuned-{number}"), patch, drop_bottom="0", drop_top="0")
            assert push(client, patch, "ana/measured", f"patch {number}").number == number
    return "ana/measured"


@pytest.fixture
def recipe(here: Registry, model: str, crumb: Crumb) -> str:
    """The recipe of patches 1 and 2, at 0.5."""
    return str(crumb.json("compose", model, "1", "2", "--alpha", "0.5")["recipe"]["digest"])


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def python(code: str, *more: str) -> list[str]:
    return [sys.executable, "-c", code, *more]


def changes(base: Path) -> list[str]:
    """Return the command that prints how much the weights [0, 0] to [3, 0] differ from the base."""
    start = [float(makers.read_weights(base)["embed.weight"][row, 0]) for row in range(4)]
    named = "dict((f'row{row}', round(read(sys.argv[1], row) - start[row], 2)) for row in range(4))"
    return python(f"{READ}start = {start}\nprint(json.dumps({named}))")


def run(crumb: Crumb, *arguments: str, command: list[str], **environment: str) -> Any:
    """Run `crumb eval run`, and return what it printed."""
    return json.loads(crumb("eval", "run", *arguments, "--json", "--", *command, **environment))


def listed(crumb: Crumb, subject: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = crumb.json("eval", "list", subject)
    return found


def test_a_file_of_a_harness_is_added_at_once_and_only_once(here: Registry, model: str, crumb: Crumb) -> None:
    done = crumb.json("eval", "add", f"{model}#3", "--from", "lm-eval", LM_EVAL, "--source", "https://x.example")
    assert (len(done["added"]), done["known"], done["not_finite"]) == (8, [], [])
    assert {(row["subject"], row["source"], row["user"]) for row in done["added"]} == {
        ("#3.1", "https://x.example", "ana")
    }
    assert "8 not added: you have recorded the same numbers before" in crumb(
        "eval", "add", f"{model}#3", "--from", LM_EVAL
    )
    assert len(listed(crumb, f"{model}#3")) == 8
    text = crumb("eval", "add", f"{model}#3.1", "--from", "lighteval", HERE / "lighteval.json", "--metric", "qem")
    assert "leaderboard|gsm8k (5-shot)" in text
    assert "± 0.0052" in text
    assert crumb("eval", "add", f"{model}#3", "--from", LM_EVAL, "--task", "gsm8k", "--dataset", "d", "-q") == "2\n"


def test_how_a_file_is_named_is_told_where_it_is_not_clear(here: Registry, model: str, crumb: Crumb) -> None:
    for arguments, words in (
        (["--from", "lm-eval"], "name the file, too"),
        (["--from", "helm", LM_EVAL], "'helm' is not a format"),
        ([LM_EVAL], "say where"),
        (["--from", LM_EVAL, "--value", "1"], "leave --value"),
        (["--task", "t"], "give one --task, --dataset, --metric and --value"),
        (["--task", "t", "--task", "u", "--metric", "m", "--dataset", "d", "--value", "1"], "give one --task"),
    ):
        crumb("eval", "add", f"{model}#2", *arguments, code=2)
        assert words in " ".join(crumb.errors.replace("│", " ").split()), arguments
    crumb("eval", "add", f"{model}#2", "--from", "lighteval", LM_EVAL, code=1)
    assert "a results file of lm-eval" in crumb.errors
    assert listed(crumb, f"{model}#2") == []


def test_eval_add_records_one_number(here: Registry, model: str, recipe: str, crumb: Crumb) -> None:
    given = ["--task", "t", "--dataset", "d", "--metric", "loss", "--value", "-0.25"]
    for subject, ref in (("#2", "#2.1"), ("#2.1", "#2.1"), ("@base", "base"), ("", "base"), (f"@{recipe[:9]}", recipe)):
        made = crumb.json("eval", "add", f"{model}{subject}", *given)
        assert (made["subject"], made["value"], made["stderr"], made["higher_is_better"]) == (ref, -0.25, None, False)
    more = ["--lower-is-better", "--source", "https://x.example", "--stderr", "0.5", "--tried", "14"]
    made = crumb.json("eval", "add", f"{model}@{recipe}", *given, *more)
    assert (made["higher_is_better"], made["source"], made["stderr"], made["tried"]) == (
        False,
        "https://x.example",
        0.5,
        14,
    )
    assert f"{recipe[:12]}, chosen among 14" in crumb("eval", "list", f"{model}@{recipe}")
    for wrong in ("n/m#", "n/m#1.", "n/m#x", "n#1", "n/m#1.2.3"):
        crumb("eval", "add", wrong, *given, code=1)
        assert "not the name of a model" in crumb.errors


def test_csv_of_evaluations_is_read_by_spreadsheets_and_runs_nothing(here: Registry, model: str, crumb: Crumb) -> None:
    names = {"task": "=1+1", "dataset": '+a,"b"', "metric": "@loss"}
    given = [word for name, text in names.items() for word in (f"--{name}", text)]
    crumb("eval", "add", f"{model}#1", *given, "--value=-0.5", "--stderr", "0.125")
    printed = crumb("eval", "list", f"{model}#1", "--csv")
    assert printed.endswith("\r\n")
    (row,) = csv.DictReader(io.StringIO(printed, newline=""))
    assert [row[name] for name in names] == ["'=1+1", '\'+a,"b"', "'@loss"]
    assert (row["value"], row["stderr"], row["higher_is_better"], row["tried"]) == ("-0.5", "0.125", "false", "")
    assert (row["subject"], row["user"], row["command"]) == ("#1.1", "ana", "")
    crumb("eval", "list", f"{model}#1", "--csv", "--json", code=2)
    assert crumb("eval", "list", f"{model}#1", "-q") == '#1.1 +a,"b":@loss -0.5\n'


def test_evaluations_are_compared_as_text_json_and_csv(
    here: Registry, model: str, recipe: str, crumb: Crumb, tmp_path: Path
) -> None:
    assert "There are no evaluations to compare" in crumb("eval", "compare", empty_model(here, tmp_path))
    names = ["--task", "compared", "--dataset", "=d", "--metric", "acc"]
    for subject, value in (("@base", "0.25"), ("#1", "0.75"), (f"@{recipe}", "0.5")):
        crumb("eval", "add", f"{model}{subject}", *names, "--value", value, "--stderr", "0.125")
    found = crumb.json("eval", "compare", model, "1", recipe[:8])
    assert [subject["ref"] for subject in found["subjects"]] == ["base", "#1.1", recipe]
    (row,) = [metric for metric in found["metrics"] if metric["task"] == "compared"]
    assert ([one["value"] for one in row["evaluations"]], row["best"]) == ([0.25, 0.75, 0.5], [1])
    line = next(line for line in crumb("eval", "compare", model, "#1", recipe).splitlines() if "compared" in line)
    assert line.split() == ["compared", "=d", "acc", "higher", "0.25", "0.75*", "0.5"]
    table = csv.DictReader(io.StringIO(crumb("eval", "compare", model, "1", recipe, "--csv"), newline=""))
    (cells,) = [cells for cells in table if cells["task"] == "compared"]
    assert (cells["dataset"], cells["base"], cells["#1.1"], cells[f"{recipe} stderr"]) == (
        "'=d",
        "0.25",
        "0.75",
        "0.125",
    )
    crumb("eval", "compare", model, "--csv", "--json", code=2)
    crumb("eval", "compare", model, "9.9.9", code=1)
    assert "There is no release" in crumb.errors


def empty_model(here: Registry, folder: Path) -> str:
    """Return a model that has no evaluations."""
    from client.actions.models import create

    with here.client() as client:
        create(client, "ana/unmeasured", makers.make_checkpoint(folder / "unmeasured", shards=1))
    return "ana/unmeasured"


def test_eval_run_composes_what_is_named_and_only_prints_numbers_without_a_task(
    here: Registry, model: str, recipe: str, base: Path, crumb: Crumb, scratch: Path
) -> None:
    before = listed(crumb, model)
    for subject, more, rows in (
        ("#2", [], [0, 0, 2, 0]),
        ("#2.1", ["--alone"], [0, 0, 2, 0]),
        ("@base", [], [0, 0, 0, 0]),
        (f"@{recipe[:10]}", [], [0, 0.5, 1, 0]),
        ("#3", ["--with", recipe], [0, 0.5, 1, 1.5]),
        ("#3", ["--with", "base"], [0, 0, 0, 3]),
    ):
        found = run(crumb, f"{model}{subject}", *more, command=changes(base), CRUMB_TOKEN="")  # reading is enough
        assert found["numbers"] == {f"row{row}": value for row, value in enumerate(rows)}, subject
        assert (found["scores"], found["recorded"]) == ([], None)
    text = crumb("eval", "run", f"{model}#2", "--", *changes(base))
    assert "row2 2.0\n" in text
    assert "Not recorded; run it again with --task NAME" in text
    assert listed(crumb, model) == before
    assert list(scratch.iterdir()) == []


def test_eval_run_records_numbers_with_a_task_and_the_command(
    here: Registry, model: str, recipe: str, base: Path, crumb: Crumb
) -> None:
    names = ["--task", "sums", "--metric", "f1", "--dataset", "two-digits", "--lower-is-better"]
    found = run(crumb, f"{model}#2", *names, command=python("print(0.75)"))
    (row,) = found["recorded"]["added"]
    assert (row["subject"], row["task"], row["dataset"], row["metric"]) == ("#2.1", "sums", "two-digits", "f1")
    assert (row["value"], row["higher_is_better"]) == (0.75, False)
    assert row["command"].endswith("'print(0.75)'")
    whole = run(crumb, f"{model}@{recipe[:9]}", "--task", "sums", command=changes(base))
    assert [(row["subject"], row["metric"]) for row in whole["recorded"]["added"]] == [
        (recipe, f"row{row}") for row in range(4)
    ]
    named = python(f"print({json.dumps([FULL, {**FULL, 'metric': 'f1'}])!r})")
    assert "math" in crumb("eval", "run", f"{model}@base", "--", *named)
    assert {(row["task"], row["metric"]) for row in listed(crumb, f"{model}@base")} >= {
        ("math", "accuracy"),
        ("math", "f1"),
    }


def test_options_are_checked_before_anything_is_composed_or_run(
    here: Registry, model: str, crumb: Crumb, tmp_path: Path
) -> None:
    ran = python(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch(); print(1)")
    for more, code, words in (
        (["--task", "x" * 101], 1, "--task must be"),
        (["--task", "sums", "--metric", ""], 1, "--metric must be"),
        (["--task", "sums", "--dataset", "a\nb"], 1, "--dataset must be"),
        (["--task", "sums", "--lower", "loss"], 2, "--lower-is-better"),
        (["--from", "lm-eval", "out", "--lower-is-better"], 2, "--lower M"),
        (["--task", "a", "--task", "b"], 2, "once"),
    ):
        crumb("eval", "run", f"{model}@base", *more, "--", *ran, code=code)
        assert words in crumb.errors
    assert not (tmp_path / "ran").exists()


def test_eval_knows_that_a_loss_falls(here: Registry, model: str, crumb: Crumb) -> None:
    found = run(crumb, f"{model}@base", "--task", "noise", command=python("print('{\"loss\": 9.48}')"))
    assert [row["higher_is_better"] for row in found["recorded"]["added"]] == [False]
    names = ["--task", "noise", "--dataset", "d", "--value", "7", "--metric"]
    assert crumb.json("eval", "add", f"{model}@base", *names, "perplexity")["higher_is_better"] is False
    assert crumb.json("eval", "add", f"{model}@base", *names, "f1")["higher_is_better"] is True
    said = crumb.json("eval", "add", f"{model}@base", *names, "odd_loss", "--higher-is-better")
    assert said["higher_is_better"] is True


def test_a_patch_with_a_snapshot_is_recorded_as_the_recipe_that_this_is(
    here: Registry, model: str, recipe: str, base: Path, crumb: Crumb
) -> None:
    both = [f"{model}#3", "--with", recipe, "--task", "both"]
    crumb("eval", "run", *both, "--", *changes(base), code=1)
    assert "has not composed the recipe" in crumb.errors
    whole = crumb.json("compose", model, "1", "2", "3", "--alpha", "0.5")["recipe"]["digest"]
    found = run(crumb, *both, command=changes(base))
    assert {(row["subject"], row["value"]) for row in found["recorded"]["added"]} == {
        (whole, 0.0),
        (whole, 0.5),
        (whole, 1.0),
        (whole, 1.5),
    }
    crumb("eval", "run", f"{model}#2", "--with", recipe, "--", *changes(base), code=1)
    assert "holds patch #2 already" in crumb.errors
    crumb("eval", "run", f"{model}@base", "--with", recipe, "--", *changes(base), code=2)
    crumb("eval", "run", f"{model}#2", "--alone", "--with", recipe, "--", *changes(base), code=2)


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("{model}/out", "{model}/out/merged/results_1.json"),
        ("results.json", "results.json"),
        ("out", "out/results.json"),
    ],
)
def test_eval_run_reads_the_results_that_the_command_writes(
    here: Registry, model: str, crumb: Crumb, where: str, target: str
) -> None:
    copy = "import pathlib, shutil, sys; to = pathlib.Path(sys.argv[2]); to.parent.mkdir(parents=True, exist_ok=True)\n"
    command = python(copy + "shutil.copyfile(sys.argv[1], to)", str(LM_EVAL), target, "{model}")
    task = f"--task={'gsm8k' if where == 'out' else 'arc_*'}"
    found = run(crumb, f"{model}#1", "--from", "lm-eval", where, task, command=command)
    metrics = {row["metric"] for row in found["recorded"]["added"] + found["recorded"]["known"]}
    assert metrics == (
        {"exact_match,strict-match", "exact_match,flexible-extract"} if where == "out" else {"acc", "acc_norm"}
    )


def test_results_of_an_earlier_run_are_not_taken_for_this_one(here: Registry, model: str, crumb: Crumb) -> None:
    (crumb.cwd / "out").mkdir()
    (crumb.cwd / "out" / "results.json").write_bytes(LM_EVAL.read_bytes())
    for place in ("out", "out/results.json", "none"):
        crumb("eval", "run", f"{model}#1", "--from", place, "--", *python("pass"), code=1)
        assert f"The command wrote no results to {place}" in crumb.errors


def test_eval_run_records_all_or_nothing(here: Registry, model: str, crumb: Crumb) -> None:
    before = listed(crumb, model)
    lines = json.dumps([FULL, {**FULL, "metric": ""}])
    crumb("eval", "run", f"{model}@base", "--", *python(f"print({lines!r})"), code=1)
    assert "metric must be" in crumb.errors
    crumb("eval", "run", f"{model}@base", "--", *python(f"print({json.dumps(FULL)!r}); raise SystemExit(1)"), code=1)
    assert f"failed on {model}@base: exit code 1" in crumb.errors
    crumb("eval", "run", f"{model}#1", "--", *python("raise SystemExit(1)"), code=1)
    assert f"failed on {model}#1.1: exit code 1" in crumb.errors
    crumb("eval", "run", f"{model}@base", "--", *python(f"print({json.dumps(FULL)!r})"), code=1, CRUMB_TOKEN="")
    assert "math: accuracy 0.5" in crumb.errors, "what was measured is not lost"
    assert "token" in crumb.errors
    crumb("eval", "run", f"{model}@base", "--task", "t", "--", *python("print(1)"), code=1, CRUMB_TOKEN="")
    assert "token" in crumb.errors
    assert listed(crumb, model) == before
