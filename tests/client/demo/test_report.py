"""The report of the demo, of made-up numbers: its table, its sentences and its picture, whoever wins."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from client.demo.picture import check_writable, draw, write_picture
from client.demo.report import MEAN, WAYS, DemoBase, DemoMerge, DemoOutcome, DemoPatch, rows, sentences, show
from client.trials.searching import Setting
from registry.errors import StorageFailed

TASKS = ("even", '<bold> & "wide"')
SVG = "{http://www.w3.org/2000/svg}"


def outcome(margin: float = 2.0, **means: float) -> DemoOutcome:
    """A demo of two tasks; `means` replaces mean accuracies."""
    found = {"base": 50.0, "fine_tuned": 90.0, "average": 60.0, "plain_sum": 75.0, "composed": 65.0}
    found |= {"composed_tuned": 70.0} | means
    accuracy: Mapping[str, Mapping[str, float]] = {
        way: {TASKS[0]: value - 1, TASKS[1]: value + 1, MEAN: value, "which digit": 42.0}
        for way, value in found.items()
    }
    patches = [DemoPatch(task, "ada", n, "ab" * 32, 120_000, 620_000, 9, 0.14) for n, task in enumerate(TASKS, 1)]
    merge = DemoMerge("0.9", {1: "1", 2: "1"}, "cd" * 32, "sha256:ef", "sha256:ef", "cpu")
    return DemoOutcome(
        base=DemoBase("mira/digits", "sha256:00", 155_000, 620_000),
        images={"train": 997, "validation": 300, "test": 500},
        tasks=TASKS,
        digit="which digit",
        patches=patches,
        merges={"composed": merge, "composed_tuned": merge},
        accuracy=accuracy,
        chosen={"plain_sum": Setting("0.5", ("1", "1")), "composed_tuned": Setting("0.9", ("1", "1"))},
        tried={"plain_sum": 9, "composed_tuned": 8},
        margin=margin,
        seconds={"base": 10.0, "all": 30.0},
    )


@pytest.mark.parametrize(
    ("means", "margin", "words"),
    [
        ({}, 2.0, "gets 75 %: the patches are behind, by more than chance explains (-5.0 ± 2.0 points)"),
        (
            {"plain_sum": 64.0},
            2.0,
            "gets 64 %: the patches are ahead, by more than chance explains (+6.0 ± 2.0 points)",
        ),
        ({}, 5.5, "gets 75 %: no difference that 500 digits can show (-5.0 ± 5.5 points)"),
        ({"plain_sum": 70.0}, 0.0, "no difference that 500 digits can show (+0.0 ± 0.0 points)"),
    ],
)
def test_the_comparison_with_plain_sums_is_what_the_numbers_are(
    means: dict[str, float], margin: float, words: str
) -> None:
    said = " ".join(sentences(outcome(margin, **means)))
    assert words in said
    assert "The average of the models gets 60 %." in said


def test_the_gain_is_a_share_of_what_fine_tuning_gains() -> None:
    said = sentences(outcome())[0]
    assert "gets 50 % right; 2 fine-tuned models, each asked its own, get 90 %." in said
    assert "One model composed of 2 patches, with alpha and weights tuned on validation data, gets 70 %" in said
    assert "which is 50 % of the gain; with alpha auto, which sees no data, 65 %." in said


@pytest.mark.parametrize("tuned", [50.0, 44.0])
def test_composing_that_does_not_help_is_called_so(tuned: float) -> None:
    said = sentences(outcome(composed_tuned=tuned))[0]
    assert "Composing did not help: one model composed of 2 patches" in said and f"gets {tuned:.0f} %" in said
    assert "of the gain" not in said


def test_fine_tuning_that_teaches_nothing_leaves_no_share_to_name() -> None:
    assert "of the gain" not in sentences(outcome(fine_tuned=50.0))[0]


def test_what_the_base_could_do_before_is_told_too() -> None:
    kept = outcome()
    accuracy = {way: {**found, "which digit": 97.0 if way == "base" else 31.0} for way, found in kept.accuracy.items()}
    said = sentences(replace(kept, accuracy=accuracy))[2]
    assert "right in 97 %" in said and "still does in 31 %" in said


def test_the_table_has_a_cell_for_every_way_and_counts_the_bytes() -> None:
    table = dict(rows(outcome()))
    assert list(table) == [*TASKS, "mean", "which digit", "models", "bytes moved"]
    assert all(len(cells) == len(WAYS) for cells in table.values())
    assert table["mean"] == ["50", "90", "60", "75", "65", "70"]
    assert table["models"] == ["1", "2", "1", "1", "1", "1"]
    assert table["bytes moved"] == ["-", "1.24 MB", "1.24 MB", "1.24 MB", "240 kB", "240 kB"]


def test_what_has_weight_0_is_not_moved() -> None:
    left_out = replace(
        outcome(), chosen={"plain_sum": Setting("0.5", ("0", "1")), "composed_tuned": Setting("0.9", ("1", "0"))}
    )
    assert dict(rows(left_out))["bytes moved"] == ["-", "1.24 MB", "1.24 MB", "620 kB", "240 kB", "120 kB"]


def test_the_report_fits_80_columns_whole_and_without_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    show(outcome())
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert "…" not in printed and "\x1b" not in printed
    assert all(word in printed for head in WAYS.values() for word in head.split())


def test_the_picture_shows_the_numbers_of_the_table_as_bars() -> None:
    shown = outcome()
    picture = ET.fromstring(draw(shown))
    assert picture.tag == f"{SVG}svg"
    bars = [box for box in picture.iter(f"{SVG}rect") if box.get("height") == "8"]
    drawn = [float(box.get("width") or 0) for box in bars]
    values = [shown.accuracy[way][name] for name in (*TASKS, MEAN, "which digit") for way in WAYS]
    scale = drawn[0] / values[0]
    assert drawn == pytest.approx([scale * value for value in values], rel=1e-3)
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    assert TASKS[1] in texts
    assert "composed, tuned: 240 kB moved" in texts
    styles = picture.find(f"{SVG}style")
    assert styles is not None and "prefers-color-scheme: dark" in (styles.text or "")
    used = {re.sub(r".*--(\w+).*", r"\1", box.get("style") or "") for box in picture.iter(f"{SVG}rect")}
    assert used == set(WAYS) and all((styles.text or "").count(f"--{way}: #") == 2 for way in WAYS)


def test_the_picture_replaces_no_other_file(tmp_path: Path) -> None:
    mine = tmp_path / "crumb-demo.svg"
    mine.write_text("mine")
    assert write_picture(outcome(), tmp_path) == tmp_path / "crumb-demo-2.svg"
    assert write_picture(outcome(), tmp_path) == tmp_path / "crumb-demo-3.svg"
    assert mine.read_text() == "mine"


def test_a_folder_that_takes_no_picture_is_named(tmp_path: Path) -> None:
    for refused in (lambda folder: write_picture(outcome(), folder), check_writable):
        with pytest.raises(StorageFailed, match=f"cannot be written to {tmp_path / 'none'}.*--keep DIR"):
            refused(tmp_path / "none")
