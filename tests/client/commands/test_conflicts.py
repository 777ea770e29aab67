"""Where patches meet, by the command: asked of a real registry, which computes it."""

import json

import pytest

from client.actions import conflicts
from client.terminal.addresses import parse_choice
from registry.errors import InvalidRequest
from tests.support import makers
from tests.support.visitors import Crumb, Registry

MODEL = "ana/meeting"
SEEDS = {1: 1, 2: 2, 3: 1}  # of the patches; the third is the first, against its grain
CROWD = 9


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
        found = client.conflicts(model, [(1, None), (2, None), (3, None)])
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
