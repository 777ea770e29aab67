"""adapter_config.json: the method of an adapter and the scale of its changes, and whether it is of a kind read here.

    s = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora        for each module: rank_pattern, alpha_pattern
    s = alpha / r                                                      of LoHa and LoKr

An unknown setting that is set may change what the weights mean, so the adapter is refused.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.weight_files import read_json
from registry.errors import InvalidCheckpoint

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
CONFIG_BYTES = 4_000_000
"""Longest adapter_config.json that is read."""

MAX_RANK = 2**14
"""Largest rank of an adapter: its factors are whole in memory."""

MAX_PRODUCT = 2**26
"""Most elements of a factor of LoKr that is itself a product: it is whole in memory, and may come of small ones."""

MERGE = "merge it into the base with PEFT's merge_and_unload, save that with save_pretrained, and diff the merged model"

OF_MLX = (
    "{} is an adapter of MLX, which is not read here: merge it into the base first, `mlx_lm.fuse --model BASE "
    "--adapter-path {} --save-path merged`, and diff the merged model."
)
"""What is said of adapters of MLX: the name, and the folder as a shell takes it."""

LORA, LOHA, LOKR, IA3 = "LORA", "LOHA", "LOKR", "IA3"
"""Methods that are read here, as PEFT calls them."""

VARIANTS = {
    "lora_bias": "a bias beside lora_B (lora_bias)",
    "layer_replication": "replicated layers (layer_replication)",
    "target_parameters": "LoRA on bare parameters (target_parameters)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "alora_invocation_tokens": "Activated LoRA, which acts on some tokens only",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow routing",
}
"""Settings that make an adapter something other than W + s B A, and what people call it."""

_OF_LYCORIS = {"alpha", "alpha_pattern", "r", "rank_pattern"}

READ = {
    LORA: {
        "alpha_pattern", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "r", "rank_pattern", "use_dora",
        "use_rslora",
    },
    LOHA: _OF_LYCORIS,
    LOKR: _OF_LYCORIS,
    IA3: {"fan_in_fan_out", "feedforward_modules"},
}  # fmt: skip
"""Settings of each method that are used here."""

_DROPPED = {"init_weights", "module_dropout", "rank_dropout", "use_effective_conv2d"}

TRAINING = {
    LORA: {
        "bias", "corda_config", "ensure_weight_tying", "eva_config", "loftq_config", "lora_dropout", "lora_ga_config",
        "megatron_core", "qalora_group_size", "runtime_config",
    },
    LOHA: _DROPPED,
    LOKR: {*_DROPPED, "decompose_both", "decompose_factor", "rank_dropout_scale"},
    IA3: {"init_ia3_weights"},
}  # fmt: skip
"""Settings of each method that say how the adapter was trained; their effect is in its weights."""

COMMON = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "modules_to_save", "peft_type", "peft_version", "revision", "target_modules", "task_type",
}  # fmt: skip
"""Settings of all methods that are used here, or whose effect is in the weights."""

SOUND_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""

_REPEATED = re.compile(r"\)[*+{]")


@dataclass(frozen=True)
class Pattern:
    """A number for each module: that of the first expression which matches its name, else the default."""

    default: float
    numbers: Mapping[str, tuple[re.Pattern[str], float]]

    def number_of(self, module: str) -> float:
        """Return the number of a module, as PEFT looks it up."""
        for expression, number in self.numbers.values():
            if expression.match(module):
                return number
        return self.numbers[module][1] if module in self.numbers else self.default


@dataclass(frozen=True)
class Numbers:
    """A number for each module by its name."""

    numbers: Mapping[str, float]

    def number_of(self, module: str) -> float:
        """Return the number of a module."""
        return self.numbers[module]


@dataclass(frozen=True)
class AdapterConfig:
    """An adapter's settings.

    Args:
        base_model: The model that it was trained on, as its author's machine called it.
        transposed: Whether square weights are [in, out], as those of GPT-2.
        stabilised: Whether it is rsLoRA.
        rank, alpha: r and alpha of each module.
        dora: Whether it is DoRA, with a magnitude for each output.
        method: Of all its modules, if PEFT saved it.
        feedforward: Ends of the names of modules whose inputs IA3 scales, or an expression for the whole names.
    """

    base_model: str | None
    transposed: bool
    stabilised: bool
    rank: Pattern | Numbers
    alpha: Pattern | Numbers
    dora: bool = False
    method: str = LORA
    feedforward: tuple[str, ...] | re.Pattern[str] = ()

    @property
    def title(self) -> str:
        """What people call its method."""
        return {LORA: "DoRA" if self.dora else "LoRA", LOHA: "LoHa", LOKR: "LoKr"}.get(self.method, self.method)

    def scale(self, module: str, rank: int) -> float:
        """Return the factor s of a module's product, in float64."""
        return self.alpha.number_of(module) / (math.sqrt(rank) if self.stabilised else rank)

    def scales_inputs(self, module: str) -> bool:
        """Say whether IA3 scales the inputs of a module, and not its outputs, as PEFT decides it."""
        if isinstance(self.feedforward, re.Pattern):
            return self.feedforward.fullmatch(module) is not None
        return module.endswith(self.feedforward)


def read_config(folder: Path) -> AdapterConfig:
    """Read the settings of an adapter.

    Args:
        folder: The folder of its two files.

    Raises:
        InvalidCheckpoint: The adapter is not of a kind that is read here, or its settings are not sound.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InvalidCheckpoint(f"There is no {CONFIG} beside the adapter's weights; save it again with PEFT.")
    settings = read_json(path, CONFIG, CONFIG_BYTES)
    if settings.keys() & {"fine_tune_type", "lora_parameters"}:
        raise InvalidCheckpoint(OF_MLX.format(folder.name, quote(str(folder))))
    method = settings.get("peft_type")
    if not isinstance(method, str) or method not in READ:
        raise _refused(f"is of the type {show(str(method))}")
    known = READ[method] | TRAINING[method] | COMMON
    for name, value in settings.items():
        if value and name not in known:
            raise _refused(f"uses {VARIANTS.get(name) or f'the setting {show(name)}'}", name)
    start = settings.get("init_lora_weights")
    if not any(start is sound or (isinstance(start, str) and start == sound) for sound in SOUND_STARTS):
        raise _refused(f"may rest on changed base weights (init_lora_weights {show(str(start))})", "init_lora_weights")
    named = settings.get("base_model_name_or_path")
    return AdapterConfig(
        named if isinstance(named, str) and named else None,
        _flag(settings, "fan_in_fan_out"),
        _flag(settings, "use_rslora"),
        _pattern(settings, "r", "rank_pattern"),
        _pattern(settings, "lora_alpha" if method == LORA else "alpha", "alpha_pattern"),
        _flag(settings, "use_dora"),
        method,
        _feedforward(settings),
    )


def _refused(what: str, field: str = "peft_type") -> InvalidCheckpoint:
    return InvalidCheckpoint(
        f"The adapter {what}; only LoRA, rsLoRA, DoRA, LoHa, LoKr and IA3 are read here: {MERGE}.", field=field
    )


def _unsound(name: str, rule: str) -> InvalidCheckpoint:
    return InvalidCheckpoint(f"{CONFIG}: {name} {rule}; save the adapter again with PEFT.", field=name)


def _flag(settings: Mapping[str, Any], name: str) -> bool:
    value = settings.get(name, False)
    if not isinstance(value, bool):
        raise _unsound(name, "is neither true nor false")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**31:
        raise _unsound(name, "is not a number, or too large a one")
    return float(value)


def _pattern(settings: Mapping[str, Any], name: str, patterns: str) -> Pattern:
    given = settings.get(patterns) or {}
    if not isinstance(given, dict):
        raise _unsound(patterns, "is not an object")
    compiled = {
        key: (_compile(key, patterns, r"(.*\.)?({})$"), _number(value, patterns)) for key, value in given.items()
    }
    return Pattern(_number(settings.get(name, 8), name), compiled)


def _feedforward(settings: Mapping[str, Any]) -> tuple[str, ...] | re.Pattern[str]:
    name = "feedforward_modules"
    given = settings.get(name) or []
    if isinstance(given, str):
        return _compile(given, name)
    if not isinstance(given, list) or not all(isinstance(end, str) for end in given):
        raise _unsound(name, "is neither an expression nor a list of names")
    return tuple(given)


def _compile(key: str, patterns: str, around: str = "{}") -> re.Pattern[str]:
    """Compile a stranger's expression, unless it may take exponential time to match."""
    if len(key) > 500 or _REPEATED.search(key) or sum(map(key.count, "*+?{")) > 3:
        raise InvalidCheckpoint(
            f"{CONFIG}: the expression {show(key)} of {patterns} is more intricate than the names of modules need; "
            "write it with fewer repetitions.",
            field=patterns,
        )
    try:
        return re.compile(around.format(key))
    except (re.error, RecursionError, OverflowError) as problem:
        raise _unsound(
            patterns, f"holds {show(key)}, which is not a regular expression: {str(problem)[:100]}"
        ) from None
