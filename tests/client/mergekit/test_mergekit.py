"""Recipes to mergekit and from it: the same sum as plain numpy has; nothing in a configuration is passed over."""

import json
import shlex
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from client.actions.jobs import wait
from client.actions.models import create
from client.actions.push import push
from client.actions.snapshots import find_snapshot
from client.mergekit.config import WeightSource, read_config
from client.mergekit.export import write_yaml
from registry.breadcrumbs.formats.recipe import scale
from registry.errors import InvalidRequest
from tests.support import makers
from tests.support.visitors import Crumb, Files, Registry

Weights = Mapping[str, np.ndarray[Any, Any]]
HEAD = "base_model: ./base\n"
MODELS = "models: [{model: a, parameters: {weight: 1}}]\n"


@pytest.fixture
def three(tmp_path: Path, crumb: Crumb) -> Path:
    """A folder with `base` and the fine-tuned models `one` and `two`."""
    base = makers.make_checkpoint(tmp_path / "base")
    for seed, name in enumerate(("one", "two"), start=1):
        makers.fine_tuned(base, tmp_path / name, seed)
    return tmp_path


def weights(folder: Path) -> Weights:
    found = makers.read_weights(folder)
    return {name: tensor.numpy() for name, tensor in found.items() if tensor.is_floating_point()}


def reference(
    base: Weights, sources: Sequence[tuple[Weights, str, str, str]], alpha: str
) -> dict[str, np.ndarray[Any, Any]]:
    """base + alpha * sum(weight * masked change), of (tuned, weight, share of the largest, of the smallest) each."""
    out = {}
    for name, before in base.items():
        total = before.astype(np.float64)
        for tuned, weight, top, bottom in sources:
            change = (tuned[name] - before).reshape(-1)
            order = np.argsort(-np.abs(change), kind="stable")
            first, last = int(Fraction(top) * len(order)), len(order) - int(Fraction(bottom) * len(order))
            kept = np.zeros(len(order))
            kept[order[first:last]] = change[order[first:last]]
            total = total + float(alpha) * float(weight) * kept.reshape(before.shape)
        out[name] = total.astype(np.float32)
    return out


def assert_close(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=3e-7, atol=1e-9, err_msg=name)


def imported(crumb: Crumb, text: str, *more: str) -> dict[str, Any]:
    """Import a configuration and run the command that it ends with."""
    (crumb.cwd / "in.yaml").write_text(text)
    found: dict[str, Any] = json.loads(crumb("recipe", "import", "in.yaml", "-o", "kit", "--json", *more))
    assert shlex.split(found["compose"])[0] == "crumb"
    crumb(*shlex.split(found["compose"])[1:])
    return found


@pytest.mark.parametrize(
    ("method", "shares"),
    [
        ("task_arithmetic", [("0", "0"), ("0", "0")]),
        ("breadcrumbs", [("0.05", "0.55"), ("0.01", "0.84")]),
    ],
)
def test_what_is_imported_composes_to_what_the_configuration_means(
    method: str, shares: list[tuple[str, str]], three: Path, crumb: Crumb
) -> None:
    own = "density: .4, gamma: 5e-2, " if method == "breadcrumbs" else ""
    every = "density: 0.15, " if method == "breadcrumbs" else ""
    text = (
        f"merge_method: {method}\nbase_model: ./base\nmodels:\n"
        f"  - model: ./one\n    parameters: {{{own}weight: -0.25}}\n  - model: ./two\n"
        f"parameters: {{{every}weight: 1.5, lambda: 0.3}}\n"
    )
    found = imported(crumb, text)
    weighed = [(weights(three / name), weight) for name, weight in (("one", "-0.25"), ("two", "1.5"))]
    sources = [(*model, *share) for model, share in zip(weighed, shares, strict=True)]
    assert_close(weights(three / "merged"), reference(weights(three / "base"), sources, "0.3"))
    written = json.loads((three / "kit" / "recipe.json").read_text())
    assert written == {name: value for name, value in found.items() if name not in ("folder", "compose")} | {
        "version": 1,
    }
    assert written["method"] == "sum"
    assert written["recipe"] in (three / "merged" / "README.md").read_text()
    assert [patch["file"] for patch in written["patches"]] == ["one.safetensors", "two.safetensors"]
    assert written["base"] == crumb("digest", "base", "-q").strip()


def test_ties_and_filters_compose_to_what_they_mean(three: Path, crumb: Crumb) -> None:
    names = sorted(weights(three / "base"))
    part = names[0].replace("[", "")
    text = (
        "merge_method: ties\nbase_model: ./base\nmodels:\n"
        f"  - model: ./one\n    parameters: {{weight: [{{filter: {part}, value: 0.25}}, {{value: 2}}]}}\n"
        "  - model: ./two\n    parameters: {weight: 1}\n"
        "parameters: {density: 0.4, lambda: 0.7}\n"
    )
    found = imported(crumb, text)
    assert (found["method"], found["patches"][0]["where"]) == ("ties", [[f"*{part}*", "0.25"], ["*", "2"]])
    base, merged = weights(three / "base"), weights(three / "merged")
    nothing = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    for name, before in base.items():
        changes = [{name: weights(three / tuned)[name] - before} for tuned in ("one", "two")]
        kept = [reference({name: nothing[name]}, [(change, "1", "0", "0.6")], "1")[name] for change in changes]
        votes = np.stack(kept).astype(np.float64)
        by = np.array([0.25 if part in name else 2.0, 1.0]).reshape(2, *[1] * before.ndim)
        plus, minus = (np.where(sign * votes > 0, sign * votes * by, 0).sum(0) for sign in (1, -1))
        counts = [np.where(sign * votes > 0, by, 0).sum(0) for sign in (1, -1)]
        sides = [mass / np.where(count, count, 1) for mass, count in zip((plus, minus), counts, strict=True)]
        expected = before + 0.7 * np.where(plus >= minus, sides[0], -sides[1])
        np.testing.assert_allclose(merged[name], expected.astype(np.float32), rtol=3e-7, atol=1e-8, err_msg=name)


def test_linear_is_a_sum_with_weights_that_add_up_to_one(three: Path, crumb: Crumb) -> None:
    models = "".join(
        f"  - model: ./{name}\n    parameters: {{weight: {weight}}}\n"
        for name, weight in (("base", 1), ("one", 2), ("two", 3))
    )
    imported(crumb, f"merge_method: linear\nmodels:\n{models}", "--base", "./base")
    parts = [(weights(three / name), weight / 6) for name, weight in (("base", 1), ("one", 2), ("two", 3))]
    merged = weights(three / "merged")
    for name in merged:
        expected = sum(part[name].astype(np.float64) * weight for part, weight in parts)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)
    with pytest.raises(InvalidRequest, match="do not add up to 1"):
        read_config(f"merge_method: linear\nparameters: {{normalize: false}}\nmodels:\n{models}", "x.yaml", "./base")


def test_models_of_one_name_are_patches_of_two(three: Path, crumb: Crumb) -> None:
    makers.fine_tuned(three / "base", three / "other" / "one", 3)
    models = "models: [{model: one/}, {model: ./other/one}]\n"
    text = f"merge_method: task_arithmetic\nbase_model: ./none\n{models}parameters: {{weight: 1}}\n"
    found = imported(crumb, text, "--base", "base")
    assert [patch["file"] for patch in found["patches"]] == ["one.safetensors", "one-2.safetensors"]


def test_changes_are_stored_in_the_dtype_that_mergekit_computes_in(three: Path, crumb: Crumb) -> None:
    found = imported(
        crumb, f"merge_method: task_arithmetic\n{HEAD}{MODELS}dtype: bfloat16\n".replace("model: a", "model: one")
    )
    assert json.loads(crumb("show", "kit/one.safetensors", "--json"))["value_dtype"] == "BF16"
    assert any(note.startswith("dtype bfloat16") for note in found["notes"])


def test_a_model_that_does_not_fit_is_named_and_leaves_nothing(three: Path, crumb: Crumb) -> None:
    (three / "in.yaml").write_text(
        f"merge_method: task_arithmetic\n{HEAD}"
        "models: [{model: ./one}, {model: ./copy}]\nparameters: {weight: 1}\n"
    )
    makers.changed(three / "base", three / "copy", lambda name, tensor: tensor)
    before = sorted(path.name for path in three.iterdir())
    crumb("recipe", "import", "in.yaml", "-o", "kit", code=1)
    assert crumb.errors.startswith("crumb: ./copy: Nothing changed")
    crumb("recipe", "import", "in.yaml", "-o", "one/kit", code=1)
    assert "inside the model" in crumb.errors
    assert sorted(path.name for path in three.iterdir()) == before


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ("{weight: 1, density: 0.143, gamma: 0.007}", ("1", "0.85", "0.007")),
        ("{weight: 1, density: 0.143}", ("1", "0.847", "0.01")),
        ("{weight: '2', gamma: 0.2}", ("2", "0", "0")),  # density is 1 where nothing is said
        ("{weight: +1.50, density: 0.9, gamma: 0.3}", ("1.5", "0", "0.1")),
        ("{weight: 1e-3, density: 1}", ("0.001", "0", "0")),
        ("{weight: 0.1234567890123456789, density: 0.5, gamma: 0}", ("0.1234567890123456789", "0.5", "0")),
    ],
)
def test_shares_are_exact_decimals_by_mergekits_defaults(settings: str, source: tuple[str, str, str]) -> None:
    config = read_config(f"merge_method: breadcrumbs\n{HEAD}models: [{{model: a, parameters: {settings}}}]\n", "x.yaml")
    assert config.sources == (WeightSource("a", *source),)
    assert (config.alpha, config.base, config.value_dtype) == ("1", "./base", "auto")


def test_weights_are_normalised_where_that_is_exact() -> None:
    models = "models: [{model: a, parameters: {weight: %s}}, {model: b, parameters: {weight: %s}}]\n"
    more = f"merge_method: task_arithmetic\n{HEAD}parameters: {{normalize: true, lambda: 2}}\n"
    config = read_config(models % ("3", "1") + more, "x.yaml")
    assert ([source.weight for source in config.sources], config.alpha) == (["0.75", "0.25"], "2")
    config = read_config(models % ("1", "-1") + more, "x.yaml")
    assert [source.weight for source in config.sources] == ["1", "-1"]  # by nothing mergekit does not divide
    config = read_config(models % ("1", "2") + more, "x.yaml")
    for source, exact in zip(config.sources, (Fraction(1, 3), Fraction(2, 3)), strict=True):
        assert len(source.weight) == 22
        assert scale("2", source.weight) == float(np.float32(float(2 * exact)))
    with pytest.raises(InvalidRequest, match="no decimal of 20 places stands for 1/30000000"):
        read_config(models % ("1", "29999999999999999999") + more, "x.yaml")


def test_what_makes_no_difference_is_noted() -> None:
    text = (
        f"merge_method: task_arithmetic\n{HEAD}out_dtype: float32\ntokenizer_source: base\n"
        "models: [{model: ./base, parameters: {weight: 9}}, {model: a, parameters: {weight: 1, gamma: 0.1}}]\n"
        "parameters: {density: 0.5, int8_mask: yes, rescale: false}\n"
    )
    config = read_config(text, "x.yaml")
    assert [source.model for source in config.sources] == ["a"]
    told = " ".join(config.notes)
    for word in (
        "its weight has no effect",
        "gamma of a",
        "density has",
        "int8_mask has",
        "keeps the base's dtypes",
    ):
        assert word in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("merge_method: breadcrumbs_ties\n", "with normalize: false"),
        ("merge_method: [slerp]\n", "merge_method"),
        ("merge_method: dare_ties\n", "merge_method 'dare_ties'"),
        ("slices: []\n", "`slices`"),
        ("modules: {}\n", "`modules`"),
        ("chat_template: auto\n", "`chat_template`"),
        ("tokenizer: {source: union}\n", "`tokenizer`"),
        ("tokenizer_source: union\n", "tokenizer_source 'union'"),
        ("dtype: int64\n", "dtype 'int64'"),
        ("frobnicate: 1\n", "'frobnicate' in x.yaml is not understood"),
        ("parameters: {rescale: true}\n", "rescale: true"),
        ("parameters: {normalize: perhaps}\n", "normalize is 'perhaps'"),
        ("parameters: {epsilon: 0.1}\n", "'epsilon' in the parameters of x.yaml"),
        ("parameters: {lambda: [0.1, 0.2]}\n", "lambda in the parameters of x.yaml is a gradient"),
        ("parameters: {lambda: 010}\n", "lambda is '010'"),
        ("parameters: {lambda: .nan}\n", "lambda is '.nan'"),
        ("parameters: {lambda: 1e-30}\n", "lambda has more than the 20 decimal places"),
        ("parameters: [1]\n", "are not a mapping"),
        ("models: []\n", "1 to 1000 models"),
        ("models: [{model: ./base}]\n", "merges nothing but the base"),
        ("models: [{model: a}]\n", "a in x.yaml has no weight"),
        ("models: [a]\n", "needs `model`"),
        ("models: [{model: a+b, parameters: {weight: 1}}]\n", "LoRA"),
        ("models: [{model: {path: a}, parameters: {weight: 1}}]\n", "not a path or Hub id"),
        ("models: [{model: a, weight: 1}]\n", "'weight' in a in x.yaml"),
        ("models: [{model: a, parameters: {lambda: 1}}]\n", "mergekit ignores it"),
        ("models: [{model: a, parameters: {weight: [{filter: mlp, value: 1}]}}]\n", "no last entry without a filter"),
        ("models: [{model: a, parameters: {weight: [0, 1]}}]\n", "weight of a in x.yaml is a gradient"),
        ("models: [{model: a, parameters: {density: [0, 1]}}]\n", "density in the parameters of a in x.yaml is"),
        ("models: [{model: a, parameters: {weight: 1, density: 0}}]\n", "density must be positive"),
        ("models: [{model: a, parameters: {weight: 1, density: 0.1, gamma: -1}}]\n", "gamma not negative"),
        ("models: [{model: a, parameters: {weight: 1}}, {model: a, parameters: {weight: 2}}]\n", "names a twice"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused_by_name(change: str, words: str) -> None:
    table = {"merge_method": "merge_method: breadcrumbs\n", "base_model": HEAD, "models": MODELS}
    table[change.partition(":")[0]] = change
    with pytest.raises(InvalidRequest) as told:
        read_config("".join(table.values()), "x.yaml")
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x\n", "an alias"),
        ("a: 1\nb: 2\na: 3\n", "'a' twice, the second at line 3"),
        ("a: " + "[" * 50 + "]" * 50, "too deep"),
        ("a: [" + "1," * 20000 + "]", "too long"),
        ("a: !!python/object/apply:os.system [x]\n", "the tag tag:yaml.org,2002:python"),
        ("a: !mine x\n", "the tag !mine"),
        ("<<: {a: 1}\n", "a key that is not a word"),
        ("[a]: 1\n", "a key that is not a word"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("a: [1\nb: 2", "not YAML that can be read at line 2"),
        ("- 1\n", "not a mapping"),
        ("", "not a mapping"),
        ("a: \x00", "not YAML"),
    ],
)
def test_yaml_that_is_broken_or_a_trap_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        read_config(text, "x.yaml")
    assert words in str(told.value)


def test_a_file_that_is_too_long_is_not_read(crumb: Crumb) -> None:
    (crumb.cwd / "x.yaml").write_text("#" * (2**20 + 1))
    crumb("recipe", "import", "x.yaml", "-o", "out", code=1)
    assert "longer than" in crumb.errors


@pytest.fixture(scope="module")
def exported(registry: Registry, files: Files) -> str:
    """A composition of two patches."""
    with registry.client() as client:
        create(client, "ana/kit", files.base)
        for number, patch in enumerate(files.patches, start=1):
            push(client, patch, "ana/kit", f"it's {number}: # [")
        made = client.compose("ana/kit", [(1, "0.5"), (2, "-1.25")], alpha="0.4")
        assert made.job is not None
        wait(client, made.job)
    return f"ana/kit@{made.recipe.digest}"


def test_an_export_is_task_arithmetic_over_models_that_are_there(
    exported: str, registry: Registry, crumb: Crumb
) -> None:
    login = {"CRUMB_URL": registry.url, "CRUMB_TOKEN": registry.token("ana")}
    crumb("pull", exported, "-o", "ours", **login)
    crumb("recipe", "export", exported, "-o", "out.yaml", "--models", **login)
    text = (crumb.cwd / "out.yaml").read_text()
    assert crumb("recipe", "export", exported, "--format", "mergekit", **login) == text
    table = yaml.safe_load(text)
    weight = {"./models/1.1": 0.5, "./models/2.1": -1.25}
    assert {entry["model"]: entry["parameters"]["weight"] for entry in table.pop("models")} == weight
    assert table == {
        "merge_method": "task_arithmetic",
        "base_model": "./models/base",
        "parameters": {"lambda": 0.4, "normalize": False},
        "dtype": "float32",
        "out_dtype": "float32",
    }
    for word in ("density 0.143, gamma 0.007", "0.1.4", "by row", "float64", "normalize"):
        assert word in text
    sources = [(weights(crumb.cwd / model), str(much), "0", "0") for model, much in weight.items()]
    ours = weights(crumb.cwd / "ours")
    assert_close(reference(weights(crumb.cwd / "models/base"), sources, "0.4"), ours)

    done = json.loads(crumb("recipe", "import", "out.yaml", "-o", "kit", "--json"))
    assert {patch["model"]: float(patch["weight"]) for patch in done["patches"]} == weight
    crumb(*shlex.split(done["compose"])[1:])
    assert_close(weights(crumb.cwd / "merged"), ours)

    crumb("recipe", "export", exported, "-o", "again.yaml", "--models", code=1, **login)
    assert "models is there already" in crumb.errors
    crumb("recipe", "export", "ana/kit@base", code=1, **login)
    assert "has no patches" in crumb.errors
    crumb("recipe", "export", exported, "--models", code=2)
    crumb("recipe", "export", exported, "--format", "safetensors", code=2)


def test_words_of_strangers_stay_in_their_comments(exported: str, registry: Registry) -> None:
    with registry.client() as client:
        found = find_snapshot(client, *exported.split("@"))
    assert found.recipe is not None
    evil = {"title": "x\n  - model: /etc\u2028- model: b\r\x1b[2J", "author": "\x85- model: c", "number": 0}
    items = [item.model_copy(update=evil) for item in found.recipe.patches]
    revision = found.model_copy(update={"recipe": found.recipe.model_copy(update={"patches": items})})
    table = yaml.safe_load(write_yaml(revision, {}, {"BF16", "F32"}))
    assert [entry["model"] for entry in table["models"]] == [f"./models/{item.sha256[:16]}" for item in items]
    assert "out_dtype" not in table  # one dtype for all would change some
    assert torch.float32 is getattr(torch, table["dtype"])
