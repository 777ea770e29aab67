"""A simulated day: recipes that come, nodes that take them, caches, and what the network and processors have to do.

It knows no database and measures nothing; scale.py gives it what was measured.
"""

import heapq
import itertools
import math
import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

DAY = 86_400.0
GB = 1e9
STREAMS = 4
"""Weight files that are hashed at a time, and places on a node of a cluster."""


@dataclass(frozen=True)
class Assumed:
    """What nobody has measured.

    Args:
        recipes: A day's, all different.
        nodes, cores, network, cache: How many there are; of each its processors, bytes a second in each direction, and
            bytes of its disk for copies.
        models: How many there are; the one that is asked for n-th most often is asked for 1/n as often as the first.
        sizes: Shares of the models, and the bytes of their weights.
        file: Bytes of a weight file.
        patches, taken: Patches of a model, and how many of them a recipe takes.
        swing: How much more recipes come at the height of the day than on average.
        held: Whether results are kept, and not their digests alone.
    """

    recipes: int = 100_000
    nodes: int = 100
    cores: int = 16
    network: float = 1.25 * GB
    cache: float = 1000 * GB
    models: int = 10_000
    sizes: tuple[tuple[float, float], ...] = ((0.40, 0.5 * GB), (0.30, 2.5 * GB), (0.24, 15 * GB), (0.06, 140 * GB))
    file: float = 5 * GB
    patches: int = 20
    taken: int = 4
    swing: float = 0.5
    held: bool = True


@dataclass(frozen=True)
class Composing:
    """What composing takes.

    Args:
        processor: Seconds of a processor for a byte of the model, with all that is hashed.
        stream: Bytes of a file that are hashed in a second.
        patch: Bytes of a patch for a byte of the model.
    """

    processor: float
    stream: float
    patch: float


@dataclass(frozen=True)
class Way:
    """How work is given to nodes.

    Args:
        name: Of the way.
        by_file: Whether each weight file is work by itself, or the whole recipe.
        near: Whether a node prefers work whose part of the base it has.
        whole_patches: Whether a node fetches whole patches, or only their entries for the file.
        held: Whether results are kept.
    """

    name: str
    by_file: bool
    near: bool
    whole_patches: bool = True
    held: bool = True


WAYS = (
    Way("recipes, to any worker", by_file=False, near=False),
    Way("recipes, to a worker that has the base", by_file=False, near=True),
    Way("weight files, whole patches", by_file=True, near=True),
    Way("weight files, entries of patches", by_file=True, near=True, whole_patches=False),
    Way("the same, digests alone are kept", by_file=True, near=True, whole_patches=False, held=False),
)
LOOK = 50
"""Pieces of waiting work among which a node looks for one that it has the base of."""


@dataclass
class Found:
    """What a simulated day took.

    Args:
        seconds: Of each recipe, from request to result.
        running: Seconds of all recipes from the beginning of their first work to the end of their last.
        computing, fetching, sending: Seconds of all places on nodes.
        read, written: Bytes from and to the bucket.
        hits: Bytes that were in a cache.
    """

    seconds: list[float] = field(default_factory=list)
    running: float = 0.0
    computing: float = 0.0
    fetching: float = 0.0
    sending: float = 0.0
    read: float = 0.0
    written: float = 0.0
    hits: float = 0.0


@dataclass(eq=False, slots=True)
class Piece:
    """Work for a place: a whole recipe (`file` is -1), or one weight file of it; `key` names its part of the base."""

    recipe: int
    model: int
    file: int
    size: float
    patches: tuple[int, ...]
    key: tuple[int, ...]


class Caches:
    """What every node keeps: the copies that were used least recently go first."""

    def __init__(self, nodes: int, room: float) -> None:
        self.room = room
        self.kept: list[OrderedDict[tuple[int, ...], float]] = [OrderedDict() for _ in range(nodes)]
        self.used = [0.0] * nodes
        self.where: dict[tuple[int, ...], set[int]] = {}

    def fetch(self, node: int, key: tuple[int, ...], size: float) -> float:
        """Return the bytes that a node has to fetch of something, which it has afterwards."""
        kept = self.kept[node]
        if key in kept:
            kept.move_to_end(key)
            return 0.0
        kept[key] = size
        self.used[node] += size
        self.where.setdefault(key, set()).add(node)
        while self.used[node] > self.room:
            old, gone = kept.popitem(last=False)
            self.used[node] -= gone
            self.where[old].discard(node)
        return size


def day(assumed: Assumed, composing: Composing, way: Way, seed: int = 0) -> Found:
    """Simulate a day."""
    chance = random.Random(seed)  # noqa: S311
    slots = STREAMS if way.by_file else 1
    cores, network = assumed.cores / slots, assumed.network / slots
    files_at_once = 1 if way.by_file else STREAMS
    caches, found = Caches(assumed.nodes, assumed.cache), Found()
    shares, sizes = zip(*assumed.sizes, strict=True)
    of_model = chance.choices(sizes, shares, k=assumed.models)
    arrivals = iter(arrive(assumed, chance, of_model, way))
    free = dict.fromkeys(range(assumed.nodes), slots)
    waiting: deque[Piece] = deque()
    left, asked, began = dict[int, int](), dict[int, float](), dict[int, float]()
    events: list[tuple[float, int, int, Piece]] = []
    order = itertools.count()

    def start(now: float, node: int, piece: Piece) -> None:
        began.setdefault(piece.recipe, now)
        free[node] -= 1
        if not free[node]:
            del free[node]
        size = piece.size * composing.patch
        wanted: list[tuple[tuple[int, ...], float]] = [(piece.key, piece.size)]
        for patch in piece.patches:
            if way.by_file and way.whole_patches:
                wanted.append(((piece.model, -2, patch), of_model[piece.model] * composing.patch))
            else:
                wanted.append(((piece.model, piece.file, patch), size))
        fetched = sum(caches.fetch(node, key, length) for key, length in wanted)
        files = min(files_at_once, math.ceil(piece.size / assumed.file))
        compute = piece.size / min(cores / composing.processor, files * composing.stream)
        sent = piece.size if way.held else 0.0
        found.computing += compute
        found.fetching += fetched / network
        found.sending += sent / network
        found.read += fetched
        found.written += sent
        found.hits += sum(length for _, length in wanted) - fetched
        heapq.heappush(events, (now + compute + (fetched + sent) / network, next(order), node, piece))

    def place(now: float, piece: Piece) -> bool:
        near = (node for node in caches.where.get(piece.key, ()) if node in free) if way.near else iter(())
        node = next(near, None)
        node = next(iter(free), None) if node is None else node
        if node is None:
            return False
        start(now, node, piece)
        return True

    def take(now: float, node: int) -> None:
        pieces = itertools.islice(waiting, LOOK) if way.near else ()
        kept = caches.kept[node]
        piece = next((piece for piece in pieces if piece.key in kept), waiting[0])
        waiting.remove(piece)
        start(now, node, piece)

    coming = next(arrivals, None)
    while coming or events:
        if coming and (not events or coming[0] <= events[0][0]):
            now, pieces = coming
            left[pieces[0].recipe], asked[pieces[0].recipe] = len(pieces), now
            waiting.extend(piece for piece in pieces if waiting or not place(now, piece))
            coming = next(arrivals, None)
        else:
            now, _, node, piece = heapq.heappop(events)
            free[node] = free.get(node, 0) + 1
            left[piece.recipe] -= 1
            if not left[piece.recipe]:
                found.seconds.append(now - asked.pop(piece.recipe))
                found.running += now - began.pop(piece.recipe)
            if waiting:
                take(now, node)
    return found


def arrive(
    assumed: Assumed, chance: random.Random, of_model: list[float], way: Way
) -> Iterator[tuple[float, list[Piece]]]:
    """Yield when recipes come, and the pieces of work that they are."""
    popular = list(itertools.accumulate(1 / rank for rank in range(1, assumed.models + 1)))
    models = chance.choices(range(assumed.models), cum_weights=popular, k=assumed.recipes)
    times = list[float]()
    while len(times) < assumed.recipes:
        at = chance.random() * DAY
        if chance.random() * (1 + assumed.swing) < 1 - assumed.swing * math.cos(2 * math.pi * at / DAY):
            times.append(at)
    for recipe, (at, model) in enumerate(zip(sorted(times), models, strict=True)):
        patches, size = tuple(chance.sample(range(assumed.patches), assumed.taken)), of_model[model]
        count = math.ceil(size / assumed.file) if way.by_file else 1
        files = range(count) if way.by_file else (-1,)
        yield at, [Piece(recipe, model, file, size / count, patches, (model, file)) for file in files]
