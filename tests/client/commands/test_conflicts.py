"""Where patches meet, by the command: asked of a real registry, which computes it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.actions import conflicts
from client.terminal.addresses import parse_choice
from registry.errors import InvalidRequest
from tests.support import makers
from tests.support.visitors import Crumb, Registry

MODEL = "ana/meeting"
SEEDS = {1: 1, 2: 2, 3: 1}  # of the patches; the third is the first, against its grain
CROWD = 9
FIRST = 11  # seed of the patches of other models


@pytest.fixture(scope="module")
def model(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of three patches, where #3 undoes #1, and #2 has nothing to do with either."""
    from client.actions.models import create
    from client.actions.push import push

    base = makers.make_checkpoint(tmp_path_factory.mktemp("conflicts") / "base", shapes={"embed.weight": (40, 16)})
    with registry.client() as client:
        create(client, MODEL, base)
        for number, seed in SEEDS.items():
            scale = -0.01 if number == 3 else 0.01
            tuned = makers.fine_tuned(base, base.with_name(f"tuned{number}"), seed, scale)
            patch = base.with_name(f"{number}.safetensors")
            makers.make_patch(base, tuned, patch)
            push(client, patch, MODEL, f"patch {number}")
    return MODEL


def test_it_waits_for_the_numbers_and_shows_who_undoes_whom(here: Registry, model: str, crumb: Crumb) -> None:
    found = json.loads(crumb("conflicts", model, "1", "2", "3", "--json"))
    pairs = {(pair["first"]["number"], pair["second"]["number"]): pair["whole"] for pair in found["pairs"]}
    assert set(pairs) == {(1, 2), (1, 3), (2, 3)}
    assert pairs[1, 3]["sign_conflict"] > 0.99
    assert 0.3 < pairs[1, 2]["sign_conflict"] < 0.7
    assert (found["missing"], found["source"], found["model"]) == (0, None, model)
    with here.client() as client:
        assert sum(found["census"]) == client.model(model).parameters
    assert (found["worst"][0]["first"]["number"], found["worst"][0]["second"]["number"]) == (1, 3)
    text = crumb("conflicts", model, "1", "2", "3")
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    (head,) = (place for place, line in enumerate(lines) if line == ["#1", "#2", "#3"])
    first, _, third = lines[head + 1 : head + 4]
    assert first[1] == third[3] == "-"
    assert float(first[3].rstrip("%")) == pytest.approx(100 * pairs[1, 3]["sign_conflict"], abs=0.06)
    least = min(pairs[1, 3]["first"], pairs[1, 3]["second"])
    assert float(third[1].rstrip("%")) == pytest.approx(100 * pairs[1, 3]["overlap"] / least, abs=0.06)
    assert ["Of", f"{sum(found['census']):,}", "weights,"] == lines[head + 5][:3]
    assert "patch 3" in text


@pytest.mark.parametrize("measure", ["overlap", "iou", "lift", "sign", "cosine", "cancellation"])
def test_one_measure_fills_the_whole_matrix(here: Registry, model: str, measure: str, crumb: Crumb) -> None:
    named = {"sign": "sign_conflict"}.get(measure, measure)
    (pair,) = json.loads(crumb("conflicts", model, "1", "3", "--json"))["pairs"]
    whole = pair["whole"]
    value = whole["overlap"] / min(whole["first"], whole["second"]) if measure == "overlap" else whole[named]
    assert crumb("conflicts", model, "1", "3", "-q", "--measure", measure) == f"#1 #3 {value!r}\n"
    text = crumb("conflicts", model, "1", "3", "--measure", measure, "--tensors", "0")
    shown = f"{value:.2f}" if measure in ("lift", "cosine") else f"{value:.1%}"
    assert text.split().count(shown) == 2
    assert "at stake" not in text


def test_the_worst_tensors_are_the_worst_of_all_pairs_however_few_are_fetched(here: Registry, model: str) -> None:
    with here.client() as client:
        every = conflicts.find_conflicts(client, model, [(1, None), (2, None), (3, None)], 1000)
        masses = [row.overlap.opposed_mass for row in every.worst]
        assert masses == sorted(masses, reverse=True)
        assert len(masses) > 3
        asked = []
        fetch = client.conflict
        client.conflict = lambda *args: asked.append(args) or fetch(*args)  # type: ignore[assignment]
        few = conflicts.find_worst(client, model, every.conflicts, 1)
        assert few == every.worst[:1]
        assert len(asked) < len(every.conflicts.pairs)


def test_many_patches_fit_into_80_columns(here: Registry, model: str) -> None:
    from client.commands.composing.conflicts import _text

    with here.client() as client:
        found = conflicts.find_conflicts(client, model, [(1, None), (2, None), (3, None)]).conflicts
    pair, patch = found.pairs[0], found.patches[0].model_copy(update={"title": "long " * 40})
    patches = [patch.model_copy(update={"number": 100 + number, "revision": 12}) for number in range(CROWD)]
    pairs = [
        pair.model_copy(update={"first": one, "second": two})
        for place, one in enumerate(patches)
        for two in patches[place + 1 :]
    ]
    crowd = found.model_copy(update={"patches": patches, "pairs": pairs, "census": [10**9] * (CROWD + 1)})
    lines = _text(model, crowd, [], None).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("#108.12 ") for line in lines) == 3, "in the list, and in each block of columns"


def test_without_numbers_it_says_which_it_took(here: Registry, model: str, crumb: Crumb) -> None:
    crumb("conflicts", model, code=1)
    assert "ana/meeting has no two patches" in crumb.errors
    with here.client() as owner, here.client("ben") as reviewer:
        owner.add_member(model, "ben", "reviewer")
        for number in (1, 2):
            owner.propose(model, number)
            reviewer.review(model, number, "approve", 1)
            owner.accept(model, number)
    assert crumb("conflicts", model).splitlines()[0] == "ana/meeting: 2 patches, newest accepted"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(("1", "9"), 1, "no patch ana/meeting#9"), (("1", "1"), 1, "named twice"), (("1", "x"), 1, "'x' is not a patch"),
     (("1", "2:0.5"), 1, "'2:0.5' is not a patch"), (("1", "2", "--measure", "luck"), 2, "--measure is one of")],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence(
    here: Registry, model: str, arguments: tuple[str, ...], code: int, words: str, crumb: Crumb
) -> None:
    assert crumb("conflicts", model, *arguments, code=code) == ""
    assert words in crumb.errors
    assert crumb.errors.count("\n") == 1


def test_a_dry_run_says_what_a_composition_would_be_and_composes_nothing(
    here: Registry, model: str, crumb: Crumb
) -> None:
    told = json.loads(crumb("compose", model, "1", "3:0.5", "--alpha", "0.7", "--dry-run", "--json"))
    text = crumb("compose", model, "1", "3:0.5", "--alpha", "0.7", "--dry-run")
    assert ["composed", "no"] in [line.split() for line in text.splitlines()]
    assert "states no licence" in text
    assert crumb("compose", model, "1", "3:0.5", "--alpha", "0.7", "--dry-run", "-q") == f"{told['recipe']}\n"
    assert crumb("compose", model, "1", "3:0.5", "--alpha", "0.7", "-q").split()[0] == told["recipe"]
    assert ["composed", "yes"] in [
        line.split() for line in crumb("compose", model, "1", "3:0.5", "--alpha", "0.7", "--dry-run").splitlines()
    ]


def test_a_choice_is_a_number_and_perhaps_a_revision() -> None:
    assert (parse_choice("3"), parse_choice("#3.2")) == ((3, None), (3, 2))
    for wrong in ("3:1", "0", "3.0", "x", ""):
        with pytest.raises(InvalidRequest):
            parse_choice(wrong)


def test_a_dry_run_finds_alpha_and_gives_hints(here: Registry, model: str, crumb: Crumb) -> None:
    told = json.loads(crumb("compose", model, "2", "3:6", "--dry-run", "--json"))
    assert told["recipe"] and float(told["alpha"]) > 0 and told["alpha_rule"].startswith("0.3 x ")
    assert [hint["kind"] for hint in told["hints"]] == ["norm"]
    with here.client() as client:
        second, third = (client.patch(model, number).norm or 0 for number in (2, 3))
    lines = crumb("compose", model, "2", "3:6", "--alpha", "9", "--dry-run").splitlines()
    hint = f"#3 does {6 * third / second:.2g} times as much as the median of the other patches"
    assert any(line.startswith("hint") and hint in line for line in lines), lines
    assert any(line.startswith("hint") and "Alpha 9 is " in line and told["alpha"] in line for line in lines), lines
    text = crumb("compose", model, "2", "3:6", "--dry-run")
    assert (
        f"{told['alpha']}, by auto: 0.3 x the root of (norm of the base / (sum of weights x norm of the sum))" in text
    )
    text = crumb("compose", model, "1", "3:0.5", "--dry-run")
    assert "#1 and #3 undo each other (cosine -1.00)" in text and f"`crumb conflicts {model} 1 3`" in text


def test_composing_without_an_alpha_waits_for_the_comparison_and_says_the_rule(here: Registry, crumb: Crumb) -> None:
    push_model(here, crumb.cwd, "ana/alpha", first=FIRST, second=FIRST + 1)
    with here.client() as client:
        assert client.conflicts("ana/alpha", [(1, None), (2, None)]).missing == 1
    rule = "by auto: 0.3 x the root of (norm of the base / (sum of weights x norm of the sum))"
    assert rule in crumb("release", "cut", "ana/alpha", "1.0.0", "1", "2")
    assert rule in crumb("compose", "ana/alpha", "1", "2")
    assert "by auto" not in crumb("compose", "ana/alpha", "1", "2", "--alpha", "0.3")
    assert "by auto: a patch by itself has alpha 1" in crumb("compose", "ana/alpha", "2")


def test_who_may_not_have_patches_compared_still_gets_a_dry_run(
    registry: Registry, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_model(registry, crumb.cwd, "ana/never", first=FIRST + 20, second=FIRST + 21)
    monkeypatch.setenv("CRUMB_URL", registry.url)
    text = crumb("compose", "ana/never", "1", "2", "--dry-run")
    assert ["alpha", "auto"] in [line.split() for line in text.splitlines()]
    assert "1 pair of them is not compared yet" in text


def test_a_review_has_hints_from_the_numbers_of_the_patch(here: Registry, crumb: Crumb) -> None:
    large = partial(makers.fine_tuned, seed=FIRST, scale=0.05)
    push_model(here, crumb.cwd, "ana/reviewed", first=FIRST, second=FIRST + 1, large=large, noise=rounded)
    with here.client() as owner, here.client("ben") as reviewer:
        owner.add_member("ana/reviewed", "ben", "reviewer")
        for number in (1, 2):
            owner.propose("ana/reviewed", number)
            reviewer.review("ana/reviewed", number, "approve", 1)
            owner.accept("ana/reviewed", number)
        norms = [owner.patch("ana/reviewed", number).norm or 0 for number in (1, 2, 3)]
    median, text = (norms[0] + norms[1]) / 2, crumb("review", "ana/reviewed", 3)
    assert f"The norm of #3 is {norms[2] / median:.2g} times the median of the other accepted patches" in text
    assert f"compose it as 3:{median / norms[2]:.3g}." in text
    assert "hint" not in crumb("review", "ana/reviewed", 1)
    assert [hint["kind"] for hint in crumb.json("review", "ana/reviewed", 4)["hints"]] == ["rounding"]
    assert "100% of what #4 changes is a single step of rounding" in crumb("review", "ana/reviewed", 4)
    with here.client() as owner:
        owner.propose("ana/reviewed", 3)
    told = crumb("review", "ana/reviewed", 3, "--approve", CRUMB_TOKEN=here.token("ben"))
    assert "hint: The norm of #3" in told


def push_model(registry: Registry, folder: Path, name: str, **tunings: Any) -> None:
    """Create a model with a patch for each tuning, of a seed or by a function of base and folder."""
    from client.actions.models import create
    from client.actions.push import push

    base = makers.make_checkpoint(folder / "base", shapes={"embed.weight": (40, 16)})
    with registry.client() as client:
        create(client, name, base)
        for title, tuning in tunings.items():
            tune = tuning if callable(tuning) else partial(makers.fine_tuned, seed=tuning)
            makers.make_patch(base, tune(base, folder / title), folder / f"{title}.safetensors")
            push(client, folder / f"{title}.safetensors", name, title)


def rounded(base: Path, folder: Path) -> Path:
    """Write a model that is only what is left of a base after a visit in BF16."""
    return makers.changed(base, folder, lambda _, one: one.bfloat16().to(one.dtype) if one.is_floating_point() else one)
