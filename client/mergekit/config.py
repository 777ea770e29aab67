"""Configurations of mergekit, read as recipes; a key without counterpart is an error, never ignored.

    breadcrumbs        gamma -> drop_top        1 - density - gamma -> drop_bottom     lambda -> alpha
    task_arithmetic    nothing is dropped                                              weight -> weight

Numbers are read as they are written, never through binary fractions. A model's own setting precedes the one for all
models, as in mergekit; defaults are those of mergekit 0.1.5: density 1, gamma 0.01, lambda 1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from client.mergekit.yaml import read_yaml
from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.errors import InvalidRequest

MOST_MODELS = 1000
METHODS = ("breadcrumbs", "task_arithmetic")
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
    """A fine-tuned model, its weight, and how it is masked, in decimals."""

    model: str
    weight: str
    drop_bottom: str
    drop_top: str


@dataclass(frozen=True, slots=True)
class Config:
    """A mergekit configuration.

    Args:
        base: The base model, as it is written; None if the configuration has none.
        alpha: A decimal.
        sources: The models to merge into it.
        value_dtype: The type in which mergekit holds the changes, as `diff` takes it.
        notes: Sentences on where the result differs from mergekit's.
    """

    base: str | None
    alpha: str
    sources: tuple[WeightSource, ...]
    value_dtype: str
    notes: tuple[str, ...]


def read_config(text: str, name: str) -> Config:
    """Read a mergekit configuration.

    Args:
        text: YAML.
        name: Of the file, for messages.

    Raises:
        InvalidRequest: The text is malformed, or a recipe cannot express it; the message names the key.
    """
    table = read_yaml(text, name)
    for key in table:
        if key in REFUSED:
            raise InvalidRequest(f"{name} has `{key}`, which {REFUSED[key]}.", field=key)
    _known(table, TOP, name)
    method = table.get("merge_method")
    if method not in METHODS:
        raise InvalidRequest(
            f"{name} has merge_method {str(method)[:60]!r}; only {' and '.join(METHODS)} are sums of patches, which a "
            "recipe can express.",
            field="merge_method",
        )
    base = None if table.get("base_model") is None else _model(table["base_model"], f"base_model of {name}")
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
    sources = _sources(table.get("models"), method, base, shared, name, notes)
    if _flag(shared, "normalize"):
        sources = _normalised(sources, name)
    idle = ["int8_mask", *(("density", "gamma") if method == "task_arithmetic" else ())]
    notes += [f"{key} has no effect on {method}, in mergekit and here." for key in idle if key in shared]
    alpha = _decimal(_number(shared.get("lambda", "1"), "lambda"), "lambda")
    return Config(base, alpha, tuple(sources), value_dtype, tuple(notes))


def _sources(
    models: Any, method: str, base: str | None, shared: Mapping[str, str], name: str, notes: list[str]
) -> list[WeightSource]:
    if not isinstance(models, list) or not 0 < len(models) <= MOST_MODELS:
        raise InvalidRequest(f"{name} needs a list `models` of 1 to {MOST_MODELS} models.", field="models")
    sources: dict[str, WeightSource] = {}
    for entry in models:
        if not isinstance(entry, dict) or "model" not in entry:
            raise InvalidRequest(f"Each of `models` in {name} needs `model`, a path or a Hub id.", field="models")
        model = _model(entry["model"], f"A model in {name}")
        _known(entry, ("model", "parameters"), f"{model} in {name}")
        own = _settings(entry.get("parameters"), OWN, f"the parameters of {model} in {name}")
        if model == base:
            if own:
                notes.append(f"{model} is the base itself; its {', '.join(own)} has no effect, as in mergekit.")
            continue
        if model in sources:
            raise InvalidRequest(f"{name} names {model} twice; add its weights up instead.", field="models")
        if method == "task_arithmetic":
            notes += [
                f"{key} of {model} has no effect on {method}, in mergekit and here." for key in own if key != "weight"
            ]
        sources[model] = _source(model, method, {**shared, **own}, name, notes)
    if not sources:
        raise InvalidRequest(f"{name} merges nothing but the base into the base.", field="models")
    return list(sources.values())


def _source(model: str, method: str, settings: Mapping[str, str], name: str, notes: list[str]) -> WeightSource:
    if "weight" not in settings:
        raise InvalidRequest(f"{model} in {name} has no weight, which mergekit needs as well.", field="weight")
    weight = _decimal(_number(settings["weight"], f"weight of {model}"), f"weight of {model}")
    if method == "task_arithmetic":
        return WeightSource(model, weight, "0", "0")
    density = _number(settings.get("density", "1"), f"density of {model}")
    gamma = _number(settings.get("gamma", "0.01"), f"gamma of {model}")
    if density <= 0 or gamma < 0:
        raise InvalidRequest(
            f"{model} in {name} has density {settings.get('density', '1')} and gamma {settings.get('gamma', '0.01')}; "
            "density must be positive, gamma not negative.",
            field="density" if density <= 0 else "gamma",
        )
    if density >= 1:
        if "gamma" in settings:
            notes.append(f"Of {model} nothing is dropped: with density 1, mergekit's default, gamma has no effect.")
        return WeightSource(model, weight, "0", "0")
    top = min(gamma, 1 - density)  # mergekit keeps the density, if need be by dropping fewer of the largest
    if top < gamma:
        notes.append(f"density and gamma of {model} add up to more than 1; as in mergekit, density goes before gamma.")
    bottom = _decimal(1 - density - top, f"drop_bottom of {model}")
    return WeightSource(model, weight, bottom, _decimal(top, f"drop_top of {model}"))


def _normalised(sources: list[WeightSource], name: str) -> list[WeightSource]:
    """Return the sources with each weight divided by their sum, as mergekit divides the merged change."""
    total = sum((Fraction(source.weight) for source in sources), Fraction())
    if abs(total) < Fraction(1, 10**8):
        return sources  # by which mergekit does not divide
    normalised = []
    for source in sources:
        try:
            weight = _decimal(Fraction(source.weight) / total, "weight")
        except InvalidRequest as why:
            raise InvalidRequest(
                f"{name} has normalize: true, and {source.weight} / {float(total):.12g}, the weight of {source.model}, "
                "is not a short decimal. Write weights that add up to 1, and set normalize to false.",
                field="normalize",
            ) from why
        normalised.append(WeightSource(source.model, weight, source.drop_bottom, source.drop_top))
    return normalised


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


def _settings(value: Any, allowed: tuple[str, ...], what: str) -> dict[str, str]:
    """Return parameters as written; each must be one plain value."""
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
        if not isinstance(setting, str):
            raise InvalidRequest(
                f"{key} in {what} is a list, a gradient or a filter by layer; a patch has one for the whole model. "
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


def _flag(settings: Mapping[str, str], key: str) -> bool:
    value = settings.get(key, "false").lower()
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
