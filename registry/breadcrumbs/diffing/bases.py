"""Bases: which models cannot be one, because a patch could not change them or they are a change themselves."""

import re
from collections.abc import Collection

from registry.breadcrumbs.diffing.quantised import find_quantiser
from registry.errors import InvalidCheckpoint

_FACTOR = re.compile(r"[._](?:lora_?(?:[AB]|a|b|down|up|mid|embedding|magnitude)?|hada_\w+|lokr_\w+|ia3_l)(?:\.|$|_)")
_BESIDE = re.compile(r"base_model\.model\.|.+\.(?:alpha|dora_scale)$")


def is_adapter(names: Collection[str]) -> bool:
    """Say whether the names of a file's tensors are those of an adapter, which is a change of another model.

    A whole model may hold factors as well, beside its own weights.
    """
    factors = {name for name in names if _FACTOR.search(name)}
    return bool(factors) and all(name in factors or _BESIDE.match(name) for name in names)


def refuse_unfit(config: object, names: Collection[str], what: str) -> None:
    """Refuse what cannot be a base: an adapter, or a model whose matrices are packed into integers.

    Args:
        config: Its config.json.
        names: Its tensors, as far as they are known.
        what: What the message calls it.

    Raises:
        InvalidCheckpoint: The message says what it is, and what to do.
    """
    if is_adapter(names):
        raise InvalidCheckpoint(
            f"{what} is an adapter, and a base is a whole model. Push the adapter to the model that it was trained on, "
            "where it becomes a patch: `crumb push ADAPTER NS/NAME -m TITLE`, or push_to_hub with create_pr=True."
        )
    quantiser = find_quantiser(config, names)
    if quantiser is not None and quantiser.packed:
        raise InvalidCheckpoint(
            f"{what} is quantised by {quantiser.title} ({quantiser.where}): its matrices are packed into integers, and "
            "a patch changes floating-point weights alone. Use the weights from before it was quantised as the base; "
            "adapters that were trained on the quantised model fit that base, and releases can be quantised as before."
        )
