"""Formats of adapters: files of other programs than PEFT, whose names are turned into those of the base.

    kohya       lora_unet_<module, _ for .>.lora_down.weight, .lora_up.weight, .alpha       also lora_te_, lora_te1_ ...
    LyCORIS     the same, or lycoris_<module>; .lora_mid.weight; .hada_w1_a ..., .lokr_w1 ... (methods.py)
    diffusers   unet.<module>.lora_A.weight, .lora_B.weight, or .lora.down.weight, .lora.up.weight, and older ones

All scale a product by alpha / r, and by 1 where there is no alpha, or where both matrices of LoKr are whole. What has
other arithmetic (OFT, VeRA ...) is named and refused, and so is a file of PEFT's without the adapter_config.json that
holds its scale.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.breadcrumbs.diffing.adapters.config import CONFIG, LORA, MERGE, OF_MLX, AdapterConfig, Numbers
from registry.breadcrumbs.diffing.adapters.methods import method_of, rank_of
from registry.breadcrumbs.diffing.faults import NAMES_SHOWN
from registry.breadcrumbs.formats.arrays import read_floats
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import FLOATS, Header, show
from registry.errors import CheckpointMismatch, InvalidCheckpoint

KOHYA, DIFFUSERS, PEFT, MLX = "kohya", "diffusers", "PEFT", "MLX"

COMPONENTS = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2",
              "te3": "text_encoder_3", "transformer": "transformer", "prior": "prior"}  # fmt: skip
"""The folder of a diffusers model that each of kohya's prefixes means."""

COMFY = "diffusion_model"
"""What ComfyUI, and trainers that write for it, call the transformer or unet of a model."""

METHODS = {
    "ia3_": "IA3", "oft_": "OFT", "boft_": "BOFT", "vera_lambda": "VeRA", "dora_scale": "DoRA of LyCORIS",
    "glora_": "GLoRA", "prompt_embeddings": "prompt tuning", "lora_E": "AdaLoRA", "diff_b": "full differences",
}  # fmt: skip
"""Parts of names that only adapters of a kind have, and what people call it."""

LYCORIS = {"hada_": "LoHa", "lokr_": "LoKr", "lora_mid": "LoCon with a core (Tucker decomposition)"}
"""The same of kinds that are read where kohya or LyCORIS named the tensors."""

METADATA = "lora_adapter_metadata"
"""The key of a header under which diffusers keeps an adapter's settings."""

_FACTOR = re.compile(
    r"(.+?)(?:\.processor)?(?:\.(lora_down|lora_up|lora_A|lora_B)(?:\.default)?"
    r"|\.(lora|lora_linear_layer)\.(down|up)|\.(to_[qkv]|to_out)_lora\.(down|up))\.weight"
)
_LYCORIS = re.compile(r"(.+)\.(?:lora_(mid)\.weight|(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)))")
_MLX = re.compile(r".+\.(?:lora_[ab]|m)")
_KOHYA = re.compile(r"(?:lora_(unet|te[123]?|transformer|prior)|lycoris)_(.+)")
_LETTERS = {"lora_down": "A", "lora_up": "B", "lora_A": "A", "lora_B": "B", "down": "A", "up": "B"}


@dataclass(frozen=True)
class Named:
    """What an adapter's file of another program holds.

    Args:
        program: `kohya` or `diffusers`.
        pairs: The keys of each module's tensors, by module, as the base calls it, and letter.
        alphas: The lora_alpha of each module that has one.
    """

    program: str
    pairs: dict[str, dict[str, str]]
    alphas: dict[str, float]

    def settings(self, file: Checkpoint) -> AdapterConfig:
        """Return the settings that the file stands for; a module without an alpha has that of its rank."""
        held = {module: rank_of(file, keys) for module, keys in self.pairs.items()}
        ranks = {module: float(rank) for module, rank in held.items() if rank}
        ones = dict.fromkeys(held.keys() - ranks.keys(), 1.0)
        alphas = {module: alpha for module, alpha in self.alphas.items() if module in ranks}
        methods = {method_of(keys) for keys in self.pairs.values()}
        method = methods.pop() if len(methods) == 1 else LORA
        numbers = Numbers(ones | ranks), Numbers(ones | ranks | alphas)
        return AdapterConfig(None, False, False, *numbers, method=method)


def program_of(header: Header) -> str | None:
    """Return which program's adapter a file is by its names; None if it is not one."""
    names = list(header.entries)
    if names and all(_MLX.fullmatch(name) for name in names):
        return MLX
    if any(_KOHYA.match(name) for name in names) and any(".lora_down." in name or part_of(name) for name in names):
        return KOHYA
    if not any(_FACTOR.fullmatch(name) for name in names):
        return PEFT if any(part_of(name) for name in names) else None
    return PEFT if any("base_model.model." in name for name in names) else DIFFUSERS


def part_of(name: str) -> str | None:
    """Return the method of which a name is a part, if it is not LoRA."""
    return next((method for part, method in (METHODS | LYCORIS).items() if part in name), None)


def read_names(file: Checkpoint, base: Checkpoint, program: str, what: str) -> Named:
    """Return the tensors of an adapter by the base's names.

    Args:
        file: The adapter's file.
        base: The base.
        program: As `program_of` gives it.
        what: What messages call the file.

    Raises:
        InvalidCheckpoint: It is of a kind that is not read here, or lacks its scale.
        CheckpointMismatch: The base does not have its modules.
    """
    if program == MLX:
        raise InvalidCheckpoint(OF_MLX.format(what, "FOLDER"))
    if program == PEFT and any("base_model.model." in key for key in file.tensors):
        raise InvalidCheckpoint(
            f"{what} is an adapter as PEFT saves it, without its {CONFIG}, which holds the scale of its changes; put "
            f"the two into one folder and give that, or {MERGE}."
        )
    read = {None, *(LYCORIS.values() if program == KOHYA else ())}
    method = next((method for method in map(part_of, file.tensors) if method not in read), None)
    if method is not None:
        raise InvalidCheckpoint(
            f"{what} is an adapter of the kind {method}; of files without {CONFIG} only LoRA, and LoHa and LoKr as "
            "LyCORIS names them, are read here: merge it into the base with the program that made it, save that as "
            "safetensors, and diff the merged model."
        )
    found: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    for key, spec in file.tensors.items():
        if match := _FACTOR.fullmatch(key):
            module = match[1] + (f".{match[5].replace('to_out', 'to_out.0')}" if match[5] else "")
            letter = _LETTERS[match[2] or match[4] or match[6]]
        elif match := _LYCORIS.fullmatch(key):
            module, letter = match[1], match[2] or match[3]
        elif key.endswith(".alpha") and spec.numel == 1 and spec.dtype in FLOATS:
            alphas[key.removesuffix(".alpha")] = float(read_floats(file, key, 0, 1)[0])
            continue
        else:
            raise InvalidCheckpoint(
                f"{what} is an adapter of {program}, and its {show(key)} is not a part of one that is read here; "
                f"{MERGE}.",
                field=key,
            )
        if letter in found.setdefault(module, {}):
            raise InvalidCheckpoint(f"{what} holds two factors for {show(module)}; save the adapter again.")
        found[module][letter] = key
    if program == DIFFUSERS:
        alphas = _read_metadata(file, found, what) | alphas
    names = _match(found, base, program)
    missing = [module for module in found if module not in names]
    if missing:
        listed = ", ".join(map(show, missing[:NAMES_SHOWN]))
        raise CheckpointMismatch(
            f"{what} is an adapter of {program} for modules that the base does not have, or has more than once: "
            f"{listed}; choose the base that it was trained on.",
            field=missing[0],
        )
    pairs = {names[module]: keys for module, keys in found.items()}
    if len(pairs) < len(found):
        raise CheckpointMismatch(f"{what} holds two adapters for one tensor of the base; save the adapter again.")
    return Named(program, pairs, {names[module]: alpha for module, alpha in alphas.items() if module in names})


def _read_metadata(file: Checkpoint, modules: Iterable[str], what: str) -> dict[str, float]:
    """Return the lora_alpha of each module that the header has, as diffusers writes it since 0.35."""
    text = next(iter(file.headers.values())).metadata.get(METADATA)
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InvalidCheckpoint(f"{what} has a header whose {METADATA} is not a JSON object; save the adapter again.")
    alphas = {}
    for key, value in settings.items():
        component, _, name = key.partition(".")
        if name in ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora", "lora_bias") and value:
            raise InvalidCheckpoint(
                f"{what} is a LoRA of diffusers with the setting {show(name)}, which is not read here; {MERGE}."
            )
        if name == "lora_alpha" and isinstance(value, int | float) and abs(value) < 2**31:
            alphas[component] = float(value)
    held = ((module, module.partition(".")[0]) for module in modules)
    return {module: alphas[component] for module, component in held if component in alphas}


def _match(modules: Iterable[str], base: Checkpoint, program: str) -> Mapping[str, str]:
    """Return the base's module for each of an adapter's that it has once."""
    held: dict[tuple[str, str], list[str]] = {}
    for name in base.tensors:
        if name.endswith(".weight"):
            module = name.removesuffix(".weight")
            folder, _, rest = module.rpartition("/")
            held.setdefault((folder, rest.replace(".", "_") if program == KOHYA else rest), []).append(module)
    found = {}
    for module in modules:
        match = _KOHYA.fullmatch(module) if program == KOHYA else None
        folder, rest = (COMPONENTS.get(match[1], ""), match[2]) if match else (module.partition(".")[0], module)
        of_part = folder == COMFY or folder in COMPONENTS.values()
        inner = module.partition(".")[2] if of_part and not match else rest
        parts = ("transformer", "unet") if folder == COMFY else (folder,)
        for place in (*((part, inner) for part in parts), ("", inner), ("", rest), ("", f"model.{rest}")):
            if len(held.get(place, ())) == 1:
                found[module] = held[place][0]
                break
    return found
