"""Results files of lm-evaluation-harness and lighteval, as these programs write them, and what is no such file."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.trials import harnesses
from client.trials.harnesses import Choice, read_results
from registry import errors
from registry.schemas import Score

HERE = Path(__file__).parent / "results"
LM_EVAL, LIGHTEVAL = HERE / "lm-eval.json", HERE / "lighteval.json"


def rows(scores: list[Score]) -> list[tuple[str, str, str, float, float | None, bool]]:
    return [(one.task, one.dataset, one.metric, one.value, one.stderr, one.higher_is_better) for one in scores]


def test_a_file_of_lm_eval_is_read_with_its_names_errors_and_directions() -> None:
    found = read_results(LM_EVAL)
    assert (found.format, found.not_finite) == ("lm-eval", [])
    arc = "allenai/ai2_arc/ARC-Easy"
    assert sorted(rows(found.scores)) == [
        ("arc_easy (0-shot)", arc, "acc", 0.4158, 0.01011, True),
        ("arc_easy (0-shot)", arc, "acc_norm", 0.3943, 0.01003, True),
        ("gsm8k (5-shot)", "openai/gsm8k", "exact_match,flexible-extract", 0.0417, 0.0055, True),
        ("gsm8k (5-shot)", "openai/gsm8k", "exact_match,strict-match", 0.0311, 0.00478, True),
        ("mmlu", "mmlu", "acc", 0.2571, 0.00368, True),
        ("mmlu_virology (0-shot)", "cais/mmlu/virology", "acc", 0.2831, 0.03507, True),
        ("wikitext (0-shot)", "EleutherAI/wikitext_document_level", "bits_per_byte", 0.9761, None, False),
        ("wikitext (0-shot)", "EleutherAI/wikitext_document_level", "word_perplexity", 37.3701, None, False),
    ]


def test_a_file_of_lighteval_is_read_without_the_average_of_all() -> None:
    found = read_results(LIGHTEVAL, choice=Choice(higher=["judge_*"]))
    assert found.format == "lighteval"
    wiki = "lighteval|wikitext:103 (0-shot)", "wikitext/wikitext-103-raw-v1"
    assert sorted(rows(found.scores)) == [
        ("leaderboard|gsm8k (5-shot)", "gsm8k", "qem", 0.0363, 0.00515, True),
        ("leaderboard|mmlu:_average (0-shot)", "leaderboard|mmlu:_average", "acc", 0.2571, 0.0321, True),
        (*wiki, "judge_grade", 3.25, None, True),
        (*wiki, "word_perplexity", 37.5, None, False),
    ]


def test_names_of_newer_lighteval_have_no_suite(tmp_path: Path) -> None:
    config = {"hf_repo": "Rowan/hellaswag", "hf_subset": "default", "metrics": [{"metric_name": "x"}, 3]}
    document = {
        "config_general": {},
        "results": {"hellaswag|0": {"em": 0.5, "em_stderr": 0.0}, "all": {"em": 1}},
        "config_tasks": {"hellaswag|0": {**config, "metrics": [{"metric_name": "em", "higher_is_better": True}]}},
    }
    found = read_results(write(tmp_path, document)).scores
    assert rows(found) == [("hellaswag (0-shot)", "Rowan/hellaswag", "em", 0.5, 0.0, True)]


@pytest.mark.parametrize(
    ("choice", "metrics"),
    [
        (Choice(tasks=["gsm8k"]), {"exact_match,strict-match", "exact_match,flexible-extract"}),
        (Choice(tasks=["arc_*", "wiki*"], metrics=["acc*", "word_*"]), {"acc", "acc_norm", "word_perplexity"}),
        (Choice(tasks=["gsm8k (5-shot)"], metrics=["*strict*"]), {"exact_match,strict-match"}),
    ],
)
def test_globs_choose_tasks_and_metrics(choice: Choice, metrics: set[str]) -> None:
    assert {score.metric for score in read_results(LM_EVAL, choice=choice).scores} == metrics


def test_one_dataset_may_be_named_for_all() -> None:
    found = read_results(LM_EVAL, choice=Choice(tasks=["arc_easy"], dataset="my/copy"))
    assert {score.dataset for score in found.scores} == {"my/copy"}


def lm_eval(results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"results": results, "versions": {}, **more}


def write(folder: Path, document: object) -> Path:
    path = folder / "results.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_what_is_better_comes_from_the_caller_then_the_file_then_the_metric(tmp_path: Path) -> None:
    path = write(tmp_path, lm_eval({"t": {"odd": 1.0, "wer": 0.5, "acc": 0.5}}))
    with pytest.raises(errors.InvalidRequest, match=r"'odd' \(t\) is better; give --higher 'odd' or --lower 'odd'"):
        read_results(path)
    assert {one.metric: one.higher_is_better for one in read_results(path, choice=Choice(lower=["odd"])).scores} == {
        "odd": False,
        "wer": False,
        "acc": True,
    }
    path = write(tmp_path, lm_eval({"t": {"odd,none": 1.0, "wer,none": 0.5}}, higher_is_better={"t": {"odd": True}}))
    assert [one.higher_is_better for one in read_results(path).scores] == [True, False]
    flipped = read_results(path, choice=Choice(lower=["odd"], higher=["wer"])).scores
    assert [one.higher_is_better for one in flipped] == [False, True]


def test_numbers_that_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, lm_eval({"t": {"acc": math.nan, "f1": math.inf, "em": 10**400, "mcc": 0.5, "bleu": "N/A"}}))
    found = read_results(path)
    assert ([one.metric for one in found.scores], found.not_finite) == (["mcc"], ["t: acc", "t: f1", "t: em"])


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([1], "is not a results file"),
        ({"results": {"t": {"acc": 1}}}, "is not a results file"),
        ({"results": {"t": 3}, "versions": {}}, "is not a results file"),
        ({"results": [], "versions": {}}, "is not a results file"),
        (lm_eval({}), "it has none at all"),
        (lm_eval({"t": {"alias": "t", "acc_stderr,none": 1, "sample_len": 3, "ok": True}}), "it has none at all"),
        (lm_eval({"t": {"acc": math.nan}}), "no finite number .* its tasks are t"),
        (lm_eval({"t" * 101: {"acc": 1}}), "is not a text of 1 to 100 characters"),
        (lm_eval({"t\x1b[31m": {"acc": 1}}), "on one line"),
        (lm_eval({"t": {"acc": 1, "acc,none": 1}}), "t / t / acc twice"),
        (lm_eval({"t": {f"acc{place}": 1 for place in range(1001)}}), "1001 numbers .* 1000 are the most"),
        (lm_eval({"t": {f"acc{place}": 1 for place in range(20_001)}}), "more than 20000 numbers"),
    ],
)
def test_what_is_no_results_file_is_refused_with_the_reason(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        read_results(write(tmp_path, document), choice=Choice(higher=["acc*"]))


def test_a_file_of_the_other_harness_a_folder_and_no_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="a results file of lighteval, not of lm-eval"):
        read_results(LIGHTEVAL, "lm-eval")
    with pytest.raises(errors.InvalidRequest, match="cannot be read"):
        read_results(tmp_path)
    with pytest.raises(errors.NotFound, match="There is no file"):
        read_results(tmp_path / "none")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harnesses, "FILE_BYTES", LM_EVAL.stat().st_size - 1)
    with pytest.raises(errors.InvalidRequest, match="without samples"):
        read_results(LM_EVAL)


MEMBERS = "results groups configs config_tasks n-shot higher_is_better t a|b|5|0 acc,none acc acc_stderr metric"
NAMES = st.sampled_from([*MEMBERS.split(" "), "metric_name"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, JSON, max_size=6), st.booleans())
def test_no_document_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, document: Any, lighteval: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({**document, "config_general" if lighteval else "versions": {}}))
    try:
        found = read_results(path, choice=Choice(higher=["*"]))
    except errors.InvalidRequest:
        return
    assert all(math.isfinite(score.value) for score in found.scores)
