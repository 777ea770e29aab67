"""Model folders: which names are those of weights, which are never read, and which paths may be uploaded.

Client, server and science share these rules, so that each accepts what another sends. Which of the weight files are the
model is for breadcrumbs/formats/weight_files.py to say, which looks into the index and the descriptions.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

from registry.errors import InvalidRequest

INDEX = "model.safetensors.index.json"
"""The index, which says which shard holds which tensor."""

WHOLE = "model.safetensors"
"""All weights in one file; from_pretrained takes it first, whether or not there is an index."""

CONFIG = "config.json"

DESCRIPTIONS = ("model_index.json", "modules.json", "router_config.json")
"""Files in which diffusers and sentence-transformers name the subfolders that a model is made of."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
"""Suffixes of formats that may run code when they are opened."""

HUB_PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.md",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)
"""Globs on names: the files that are fetched of a model on a Hub."""

PATH_LENGTH = 255
"""Most characters of a path in a model folder."""

_INDEX = re.compile(r".+\.safetensors(?:\.[\w-]+)?\.index(?:\.[\w-]+)?\.json")
_PICKLED = re.compile(r"(?:pytorch_|diffusion_pytorch_|tf_|flax_|consolidated|adapter_)?model\b|consolidated\b")
_OTHER = re.compile(r"\.(?:gguf|ggml|tflite|ot|onnx(?:[._]data[\w-]*)?)$|(?:^|/)openvino_\w+[\w.-]*\.(?:xml|bin)$")

_SEGMENT = r"(?![. ])[ !$&'()+,;=@\[\]^_`{}~0-9A-Za-z.-]+(?<![. ])"
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


def is_pickle(path: str) -> bool:
    """Return whether a file's name is that of a format which may run code when it is opened."""
    return PurePosixPath(path).suffix.lower() in PICKLES


def is_weights(path: str) -> bool:
    """Return whether a path in a model folder may hold weights that can be read: whether it is a safetensors file."""
    return path.endswith(".safetensors")


def is_index(path: str) -> bool:
    """Return whether a file is an index, which says which weight file holds which tensor."""
    return _INDEX.fullmatch(path) is not None


def describes_weights(path: str) -> bool:
    """Return whether a file says which weight files belong to a model: an index, or a description of components."""
    return PurePosixPath(path).name in DESCRIPTIONS or is_index(path)


def concerns_weights(path: str) -> bool:
    """Return whether a file is read to know a model's weights: it holds or describes them, or is its configuration."""
    return is_weights(path) or describes_weights(path) or path == CONFIG


def is_pickled_weights(path: str) -> bool:
    """Return whether a file's name is one that libraries give to pickled weights, in contrast to an optimizer's."""
    return is_pickle(path) and _PICKLED.match(PurePosixPath(path).name) is not None


def may_hold_weights(path: str) -> bool:
    """Return whether a file may hold weights in any format, or is an index of such files."""
    return is_weights(path) or is_index(path) or is_pickled_weights(path) or _OTHER.search(path) is not None


def carried(paths: Iterable[str], kept: Collection[str]) -> list[str]:
    """Return which files of a base a composed model has beside its weights and its README.md.

    Other copies of the weights are not among them: nothing was composed there.

    Args:
        paths: The files of the base.
        kept: Its weight files, and their indexes.
    """
    return [
        path
        for path in paths
        if path != "README.md" and not is_pickle(path) and (not may_hold_weights(path) or path in kept)
    ]


def left_out(paths: Iterable[str], kept: Collection[str]) -> list[str]:
    """Return which files of a base may hold weights and are not in a model composed of it, as of `carried`."""
    return [path for path in paths if may_hold_weights(path) and path not in kept]


def is_path(path: str) -> bool:
    r"""Return whether a path in a model folder may be uploaded: relative, visible, and storable on every system.

    That is printable ASCII without `\ : * ? " < > | % #`, of which no part begins or ends with a dot or a space.
    """
    return len(path) <= PATH_LENGTH and _PATH.fullmatch(path) is not None


def check_path(path: str) -> None:
    """Refuse a path that may not be uploaded, or that names a pickle.

    Raises:
        InvalidRequest: The path breaks a rule; the message names the path and the rule.
    """
    if len(path) > PATH_LENGTH:
        raise InvalidRequest(f"The path {path[:40]!r}... is longer than {PATH_LENGTH} characters.", field=path)
    if not path.isascii() or not path.isprintable() or set(path) & set('\\:*?"<>|%#'):
        raise InvalidRequest(f"The path {path!r} has a character that not every system can store.", field=path)
    if not is_path(path):
        raise InvalidRequest(f"The path {path!r} is not a plain relative path to a visible file.", field=path)
    if is_pickle(path):
        raise InvalidRequest(
            f"{path} may hold a pickle, which runs code when opened; convert the weights to safetensors.",
            field=path,
        )


def require_one_folder(paths: Sequence[str]) -> None:
    """Refuse paths that cannot be files of one folder on every system.

    Raises:
        InvalidRequest: Two paths are the same, or differ in upper and lower case only; or one lies inside another.
    """
    known: dict[str, str] = {}
    for path in paths:
        if (other := known.get(path.casefold())) is not None:
            raise InvalidRequest(f"{path} and {other} are one file on some systems; rename one of them.", field=path)
        known[path.casefold()] = path
    for path in paths:
        for parent in PurePosixPath(path).parents:
            if (file := known.get(str(parent).casefold())) is not None:
                raise InvalidRequest(f"{path} lies inside {file}, which is a file; rename one of them.", field=path)


def check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that cannot be the files of one base.

    Raises:
        InvalidRequest: A path breaks a rule of `check_path` or of `require_one_folder`, or there are no weights.
    """
    for path in paths:
        check_path(path)
    require_one_folder(paths)
    if not any(is_weights(path) for path in paths):
        raise InvalidRequest("A base needs at least one .safetensors file.", field="files")
