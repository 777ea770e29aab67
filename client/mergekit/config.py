"""Configurations of mergekit, read as recipes; a key without counterpart is an error, never ignored.

    breadcrumbs        gamma -> drop_top        1 - density - gamma -> drop_bottom     sum     lambda -> alpha
    breadcrumbs_ties   likewise                                                        ties    weight -> weight
    ties               1 - density -> drop_bottom                                      ties
    task_arithmetic    nothing is dropped                                              sum
    linear             nothing is dropped; weight / sum of weights -> weight           sum

Numbers are read as they are written, never through binary fractions. A model's own setting precedes the one for all
models, as in mergekit; defaults are those of mergekit 0.1.5: density 1, gamma 0.01, lambda 1. A list of `filter` and
`value` for `weight` becomes weights by tensor.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from client.mergekit.yaml import read_yaml
from registry.breadcrumbs.formats.globs import check_glob
from registry.breadcrumbs.formats.recipe import normalise_decimal, scale
from registry.errors import InvalidRequest

MOST_MODELS = 1000
METHODS = {"breadcrumbs": "sum", "breadcrumbs_ties": "ties", "linear": "sum", "task_arithmetic": "sum", "ties": "ties"}
"""Methods of mergekit, and what a recipe calls how they combine changes."""
WHOLE = ("linear", "task_arithmetic")  # drop nothing
NORMALISED = ("linear", "ties")  # by default
DTYPES = {"float64": "F32", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
TOP = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "tokenizer_source")
OWN = ("weight", "density", "gamma")  # also allowed for each model
SHARED = ("lambda", "normalize", "rescale", "int8_mask")
REFUSED = {
    "slices": "takes layers from different places, which a patch cannot express; write the whole models under `models`",
    "modules": "merges parts of a model apart, which a recipe cannot express; write the whole models under `models`",
    "tokenizer": "changes the vocabulary, and a patch keeps the base's; remove it",
    "chat_template": "replaces the base's; remove it, and change the tokenizer's files afterwards",
}
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)
_OCTAL = re.compile(r"[-+]?0[0-9]+", re.ASCII)
_YES = ("true", "yes", "on", "1")
_NO = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A fine-tuned model, its weight, how it is masked, in decimals, and its weights by tensor, as an item has them."""

    model: str
    weight: str
    drop_bottom: str
    drop_top: str
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """A mergekit configuration.

    Args:
        base: The base model, as it is written; None if the configuration has none.
        method: Of the recipe.
        alpha: A decimal.
        sources: The models to merge into it.
        value_dtype: The type in which mergekit holds the changes, as `diff` takes it.
        notes: Sentences on where the result differs from mergekit's.
    """

    base: str | None
    method: str
    alpha: str
    sources: tuple[WeightSource, ...]
    value_dtype: str
    notes: tuple[str, ...]


def read_config(text: str, name: str, base: str | None = None) -> Config:
    """Read a mergekit configuration.

    Args:
        text: YAML.
        name: Of the file, for messages.
        base: The base model, in place of the configuration's own.

    Raises:
        InvalidRequest: The text is malformed, or a recipe cannot express it; the message names the key.
    """
    table = read_yaml(text, name)
    for key in table:
        if key in REFUSED:
            raise InvalidRequest(f"{name} has `{key}`, which {REFUSED[key]}.", field=key)
    _known(table, TOP, name)
    method = table.get("merge_method")
    if not isinstance(method, str) or method not in METHODS:
        raise InvalidRequest(
            f"{name} has merge_method {str(method)[:60]!r}; a recipe can express {', '.join(METHODS)}.",
            field="merge_method",
        )
    if base is None and table.get("base_model") is not None:
        base = _model(table["base_model"], f"base_model of {name}")
    shared = _settings(table.get("parameters"), (*OWN, *SHARED), f"the parameters of {name}")
    notes: list[str] = []
    value_dtype = _dtypes(table, name, notes)
    if _flag(shared, "rescale"):
        raise InvalidRequest(
            f"{name} has rescale: true, which scales each tensor by what its mask left out; a recipe cannot do that. "
            "Set it to false.",
            field="rescale",
        )
    _flag(shared, "int8_mask")
    sources, base_weight = _sources(table.get("models"), method, base, shared, name, notes)
    idle = ["int8_mask", *(("density", "gamma") if method in WHOLE else ("gamma",) if method == "ties" else ())]
    if method == "linear":
        idle.append("lambda")
    notes += [f"{key} has no effect on {method}, in mergekit and here." for key in idle if key in shared]
    alpha = "1" if method == "linear" else _decimal(_number(shared.get("lambda", "1"), "lambda"), "lambda")
    normalise = _flag(shared, "normalize", "true" if method in NORMALISED else "false")
    if METHODS[method] == "ties":
        if not normalise:
            raise InvalidRequest(
                f"{name} has {method} with normalize: false, which adds up what has the elected sign, and a recipe "
                "averages it. Set normalize to true, and lambda as you need it.",
                field="normalize",
            )
    elif normalise:
        sources = _normalised(sources, base_weight, alpha, name)
    elif method == "linear" and base_weight + sum(Fraction(source.weight) for source in sources) != 1:
        raise InvalidRequest(
            f"{name} has linear with normalize: false and weights that do not add up to 1, which scales the base too; "
            "a recipe cannot do that. Set normalize to true.",
            field="normalize",
        )
    return Config(base, METHODS[method], alpha, tuple(sources), value_dtype, tuple(notes))


def _sources(
    models: Any, method: str, base: str | None, shared: Mapping[str, Any], name: str, notes: list[str]
) -> tuple[list[WeightSource], Fraction]:
    """Return the models to merge, and the weight of the base among them, which only `linear` counts."""
    if not isinstance(models, list) or not 0 < len(models) <= MOST_MODELS:
        raise InvalidRequest(f"{name} needs a list `models` of 1 to {MOST_MODELS} models.", field="models")
    sources: dict[str, WeightSource] = {}
    base_weight = Fraction()
    for entry in models:
        if not isinstance(entry, dict) or "model" not in entry:
            raise InvalidRequest(f"Each of `models` in {name} needs `model`, a path or a Hub id.", field="models")
        model = _model(entry["model"], f"A model in {name}")
        _known(entry, ("model", "parameters"), f"{model} in {name}")
        own = _settings(entry.get("parameters"), OWN, f"the parameters of {model} in {name}")
        if model == base and method == "linear":
            base_weight += Fraction(_source(model, method, {**shared, **own}, name, notes).weight)
            continue
        if model == base:
            if own:
                notes.append(f"{model} is the base itself; its {', '.join(own)} has no effect, as in mergekit.")
            continue
        if model in sources:
            raise InvalidRequest(f"{name} names {model} twice; add its weights up instead.", field="models")
        if method in WHOLE:
            notes += [
                f"{key} of {model} has no effect on {method}, in mergekit and here." for key in own if key != "weight"
            ]
        sources[model] = _source(model, method, {**shared, **own}, name, notes)
    if not sources:
        raise InvalidRequest(f"{name} merges nothing but the base into the base.", field="models")
    return list(sources.values()), base_weight


def _source(model: str, method: str, settings: Mapping[str, Any], name: str, notes: list[str]) -> WeightSource:
    if "weight" not in settings:
        raise InvalidRequest(f"{model} in {name} has no weight, which mergekit needs as well.", field="weight")
    weight, where = _weight(settings["weight"], f"weight of {model}", method, name)
    if method in WHOLE:
        return WeightSource(model, weight, "0", "0", where)
    density = _number(settings.get("density", "1"), f"density of {model}")
    gamma = _number("0" if method == "ties" else settings.get("gamma", "0.01"), f"gamma of {model}")
    if density <= 0 or gamma < 0:
        raise InvalidRequest(
            f"{model} in {name} has density {settings.get('density', '1')} and gamma {settings.get('gamma', '0.01')}; "
            "density must be positive, gamma not negative.",
            field="density" if density <= 0 else "gamma",
        )
    if density >= 1:
        if "gamma" in settings:
            notes.append(f"Of {model} nothing is dropped: with density 1, mergekit's default, gamma has no effect.")
        return WeightSource(model, weight, "0", "0", where)
    top = min(gamma, 1 - density)  # mergekit keeps the density, if need be by dropping fewer of the largest
    if top < gamma:
        notes.append(f"density and gamma of {model} add up to more than 1; as in mergekit, density goes before gamma.")
    bottom = _decimal(1 - density - top, f"drop_bottom of {model}")
    return WeightSource(model, weight, bottom, _decimal(top, f"drop_top of {model}"), where)


def _weight(value: Any, field: str, method: str, name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a weight, and weights by tensor: of a list of filters, whose first that is in a tensor's name counts."""
    if isinstance(value, str):
        return _decimal(_number(value, field), field), ()
    if method == "linear":
        raise InvalidRequest(f"{field} in {name} is a list, by which linear divides each tensor anew.", field="weight")
    where = []
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str) or set(entry) > {"filter", "value"}:
            raise InvalidRequest(
                f"{field} in {name} is a gradient over layers, or not a list of `filter` and `value`; write one value "
                "for each filter.",
                field="weight",
            )
        part = entry.get("filter")
        glob = "*" if part in (None, "*") else check_glob(f"*{str(part).replace('[', '[[]')}*", "weight")
        where.append((glob, _decimal(_number(entry["value"], field), field)))
    if not where or where[-1][0] != "*":
        raise InvalidRequest(
            f"{field} in {name} has no last entry without a filter, for all other tensors.", field="weight"
        )
    return "1", tuple(where)


def _normalised(sources: list[WeightSource], base_weight: Fraction, alpha: str, name: str) -> list[WeightSource]:
    """Return the sources with each weight divided by the sum of all, as mergekit divides the merged change."""
    if any(source.where for source in sources):
        raise InvalidRequest(
            f"{name} has normalize: true and weights by tensor, by whose sum mergekit divides each tensor; a recipe "
            "cannot do that. Set normalize to false.",
            field="normalize",
        )
    total = base_weight + sum(Fraction(source.weight) for source in sources)
    if abs(total) < Fraction(1, 10**8):
        return sources  # by which mergekit does not divide
    return [
        replace(source, weight=_quotient(Fraction(source.weight) / total, alpha, source, name)) for source in sources
    ]


def _quotient(exact: Fraction, alpha: str, source: WeightSource, name: str) -> str:
    """Return the decimal nearest to a quotient, if it gives the same scale.

    Raises:
        InvalidRequest: It does not.
    """
    near = _decimal(Fraction(round(exact * 10**20), 10**20), "weight")
    if scale(alpha, near) != scale(alpha, str(exact)):
        raise InvalidRequest(
            f"{name} has normalize: true, and no decimal of 20 places stands for {exact}, the weight of "
            f"{source.model}. Write weights that add up to 1, and set normalize to false.",
            field="normalize",
        )
    return near


def _dtypes(table: Mapping[str, Any], name: str, notes: list[str]) -> str:
    """Return the type that changes are stored in, and add notes on dtypes and the tokenizer."""
    if table.get("tokenizer_source") not in (None, "base"):
        raise InvalidRequest(
            f"{name} has tokenizer_source {str(table['tokenizer_source'])[:60]!r}, and a recipe keeps the base's "
            "tokenizer; remove it, or write base.",
            field="tokenizer_source",
        )
    given = {
        key: str(table[key]).removeprefix("torch.") for key in ("dtype", "out_dtype") if table.get(key) is not None
    }
    for key, value in given.items():
        if value not in DTYPES:
            raise InvalidRequest(f"{name} has {key} {value[:60]!r}; choose one of {', '.join(DTYPES)}.", field=key)
    stored = DTYPES[given["dtype"]] if "dtype" in given else "auto"
    if "dtype" in given:
        notes.append(
            f"dtype {given['dtype']}: mergekit computes in it. Here changes are stored in {stored}, sums in float64."
        )
    if given:
        notes.append("The composed model keeps the base's dtypes, whatever dtype and out_dtype say.")
    return stored


def _model(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{what} is not a path or Hub id; nothing else is understood here.", field="model")
    if "+" in value:
        raise InvalidRequest(
            f"{what} is {value[:200]!r}, a model + LoRA; merge the adapter into a model of its own and name that.",
            field="model",
        )
    return value


def _settings(value: Any, allowed: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return parameters as written; each must be one plain value, but `weight`, which may be a list."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what[:1].upper()}{what[1:]} are not a mapping.", field="parameters")
    for key in value:
        if key in SHARED and key not in allowed:
            raise InvalidRequest(
                f"{key} is among {what}, where mergekit ignores it; write it for all models.", field=key
            )
    _known(value, allowed, what)
    for key, setting in value.items():
        if not isinstance(setting, str) and not (key == "weight" and isinstance(setting, list)):
            raise InvalidRequest(
                f"{key} in {what} is a gradient, a filter by layer or none; a patch has one for the whole model. "
                "Write one plain value.",
                field=key,
            )
    return value


def _known(table: Mapping[str, Any], allowed: tuple[str, ...], what: str) -> None:
    for key in table:
        if key not in allowed:
            raise InvalidRequest(
                f"{str(key)[:60]!r} in {what} is not understood here, and nothing is ignored; remove it if it "
                "does not matter.",
                field=str(key)[:60],
            )


def _flag(settings: Mapping[str, Any], key: str, default: str = "false") -> bool:
    value = settings.get(key, default).lower()
    if value not in _YES + _NO:
        raise InvalidRequest(f"{key} is {value[:60]!r}; write true or false.", field=key)
    return value in _YES


def _number(text: str, field: str) -> Fraction:
    if not _NUMBER.fullmatch(text) or _OCTAL.fullmatch(text):
        raise InvalidRequest(
            f"{field} is {text[:60]!r}, which is not a decimal number; write it like 0.3.", field=field
        )
    return Fraction(text)


def _decimal(value: Fraction, field: str) -> str:
    """Return a number as an exact decimal.

    Raises:
        InvalidRequest: The number has more than 20 digits on a side of the point.
    """
    scaled = value * 10**20
    if scaled.denominator != 1:
        raise InvalidRequest(f"{field} has more than the 20 decimal places that a recipe takes.", field=field)
    digits = str(abs(scaled.numerator)).rjust(21, "0")
    return normalise_decimal(f"{'-' if scaled < 0 else ''}{digits[:-20]}.{digits[-20:]}", field)
