"""Files of a push: which of them make a difference to its weights, and which could not lie in one folder."""

from collections.abc import Collection, Iterator, Sequence

from registry.breadcrumbs.formats.weight_files import find_missing, shard_of
from registry.db.tables import PushedFile
from registry.errors import InvalidRequest
from registry.files.beside import CARD
from registry.files.folders import describes_weights, is_weights

MOST_FILES = 2000  # of a push, and of a commit
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def require_weights(paths: Collection[str]) -> None:
    """Refuse a commit of which no patch could be made.

    Raises:
        InvalidRequest: It changes no weights.
    """
    if not any(map(holds_weights, paths)):
        raise InvalidRequest(
            "This commit changes no weights, so no patch can be made of it. (One with README.md alone proposes a card.)"
        )


def refuse_adapter(paths: Collection[str]) -> None:
    """Refuse a base that is an adapter as PEFT saves one, so that its tool says so at once.

    Raises:
        InvalidRequest: It has the settings of an adapter, and no weights but an adapter's.
    """
    names = {path for path in paths if is_weights(path)}
    if ADAPTER in paths and names <= {ADAPTER_WEIGHTS}:
        raise InvalidRequest(
            "This is an adapter, and a base is a whole model. Push it to the model that it was trained on, as a pull "
            "request (create_pr=True), and it becomes a patch there.",
            field=ADAPTER,
        )


def is_card(paths: Collection[str]) -> bool:
    """Say whether a commit to these files proposes a card of the model."""
    return {*paths} == {CARD}


def holds_weights(path: str) -> bool:
    """Say whether a file of a push makes a difference to its weights."""
    return is_weights(path) or describes_weights(path) or path.rpartition("/")[2] == ADAPTER


def spread(deleted: Sequence[str], known: Collection[str]) -> set[str]:
    """Return the files that paths to delete stand for; a folder's ends in a slash."""
    folders = tuple(path for path in deleted if path.endswith("/"))
    inside = {path for path in known if folders and path.startswith(folders)}
    return inside | ({*deleted} & set(known))


def require_all(before: Collection[PushedFile], sent: Collection[str], deleted: Collection[str]) -> None:
    """Refuse a commit of some of the weights if others, which the last diff let go of, are needed still.

    Raises:
        InvalidRequest: The message names them.
    """
    gone = {file.path for file in before if file.sha256 and file.blob_sha256 is None and is_weights(file.path)}
    needed = sorted(gone - set(sent) - set(deleted))
    if needed and not is_whole(sent):
        shown = ", ".join(needed[:5]) + (f" and {len(needed) - 5} more" if len(needed) > 5 else "")
        raise InvalidRequest(
            f"The weights of the last revision are not kept here, and this commit has only some of them; send {shown} "
            "in the same commit, too.",
            field=needed[0],
        )


def is_whole(paths: Collection[str]) -> bool:
    """Say whether files hold all weights of a model by themselves: in one file, or in all shards, of one folder."""
    weights = {path for path in paths if is_weights(path)}
    return (
        bool(weights) and not any("/" in path for path in weights) and next(missing_shards(weights, ()), None) is None
    )


def missing_shards(held: Collection[str], base: Collection[str]) -> Iterator[str]:
    """Yield the shards that are named by others of a push, and neither in it nor in the base, as `find_missing`."""
    known: dict[tuple[str, int], dict[int, str]] = {}
    for paths in (held, base):
        for path in paths:
            shard = shard_of(path)
            if shard is None:
                continue
            stem, number, count = shard
            if paths is held or (stem, count) in known:
                known.setdefault((stem, count), {}).setdefault(number, path)
    for (_, count), shards in sorted(known.items()):
        yield from find_missing(count, shards)
