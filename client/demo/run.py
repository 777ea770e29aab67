"""`crumb demo`: the whole product on this machine, in about a minute.

    server, users ──┐
    digits -> base -> six fine-tuned models -> six patches, pushed by six people -> subsets composed at the registry
           -> pulled, verified, composed here too -> loaded with from_pretrained -> accuracies on the test part

Everything that a contributor or a user does goes through the same functions as `crumb`, over HTTP. Seeds are fixed, no
weight is trained on the test part, and the numbers are shown as they come out. It shows the machinery, not how good the
method is: tasks and the second alpha were chosen while looking at this very test part.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.api.client import Client
from client.demo.report import DemoMerge, DemoOutcome, DemoPatch, show
from client.demo.server import start
from client.terminal.console import Console
from registry.errors import DigestMismatch, JobFailed, WrongState
from registry.extras import require_extra

if TYPE_CHECKING:
    from client.demo.tasks import Digits

OWNER, MODEL = "mira", "mira/digits"
CONTRIBUTORS = ("ada", "ben", "chloe", "dov", "emeka", "fumi")
ALPHAS = ("0.3", "0.6")  # two at which the two methods differ
SUBSETS = (2, 4, 6)


def run_demo(keep: Path | None, json_output: bool, quiet: bool) -> None:
    """Run the demo and print its report.

    Args:
        keep: An empty or new folder that keeps everything; a temporary one, removed at the end, when None.
        json_output: Print one JSON document with all numbers.
        quiet: Print only recipe and weights digest of each composed model, at the end.

    Raises:
        MissingExtra: The libraries that train are not installed.
        WrongState: `keep` is not empty.
    """
    require_extra("demo")
    console = Console(json_output, quiet)
    with _room(keep) as folder:
        report = play(folder, console)
    brief = "\n".join(f"{merge.recipe} {merge.weights_digest}" for merge in report.compositions)
    console.result(asdict(report), "", brief)
    if not (json_output or quiet):
        show(report)
        if keep is not None:
            print(f"\nEverything is in {keep}. Serve it again: crumb-server serve --data {keep / 'registry'}")


def play(folder: Path, console: Console) -> DemoOutcome:
    """Play all parts in a folder: the operator, the maintainer, six contributors and a user."""
    clock = Clock()
    with start(folder / "registry") as registry:
        console.note(f"A registry answers at {registry.url}.")
        users = registry.users((OWNER, *CONTRIBUTORS))  # made while the base trains

        console.note("Loading torch and transformers, and training the base on 700 handwritten digits ...")
        from client.demo import tasks as demo_tasks

        digits = demo_tasks.load_parts()
        base = folder / "base"
        demo_tasks.train_base(digits, base)
        clock.lap("base")
        tokens = users.result()
        with contextlib.ExitStack() as stack:
            clients = {user: stack.enter_context(Client(registry.url, token)) for user, token in tokens.items()}
            created = _create(clients[OWNER], base, console)
            accuracy = demo_tasks.evaluate(demo_tasks.load(base), digits)
            patches = []
            for author, task in zip(CONTRIBUTORS, demo_tasks.TASKS, strict=True):
                console.note(f"{author} fine-tunes it on {task} digits, and pushes the patch ...")
                patches.append(contribute(clients[author], author, task, digits, folder))
            clock.lap("fine-tuning and pushing")
            merges = []
            for alpha in ALPHAS:
                for count in SUBSETS:
                    console.note(f"{count} patches at alpha {alpha}: composing, pulling, verifying, evaluating ...")
                    merges.append(merge(clients[OWNER], patches[:count], alpha, digits, folder))
            clock.lap("composing, pulling and evaluating")
    return DemoOutcome(
        MODEL, created.base, created.parameters, created.size, len(digits.test.labels), accuracy, patches, merges,
        clock.stop(),
    )  # fmt: skip


@dataclass(frozen=True)
class DemoBase:
    """The base as the registry has it: weights digest, number of weights, size of the weight file in bytes."""

    base: str
    parameters: int
    size: int


def _create(client: Client, base: Path, console: Console) -> DemoBase:
    from client.actions.models import create

    console.note(f"{OWNER} creates {MODEL} with this base.")
    model = create(client, MODEL, base)
    if model.base is None or model.parameters is None:
        raise JobFailed(f"The registry did not import the base of {MODEL}.")
    return DemoBase(model.base, model.parameters, (base / "model.safetensors").stat().st_size)


def contribute(client: Client, author: str, task: str, digits: "Digits", folder: Path) -> DemoPatch:
    """Fine-tune the base on a task, make the patch, push it, and wait for the registry's check."""
    from client.actions.patching import diff
    from client.actions.push import push
    from client.demo import tasks as demo_tasks

    base, tuned, file = folder / "base", folder / "tuned" / task, folder / "patches" / f"{task}.safetensors"
    tuned.mkdir(parents=True)
    file.parent.mkdir(exist_ok=True)
    demo_tasks.fine_tune(base, task, digits, tuned)
    diff(base, tuned, file)
    patch = push(client, file, MODEL, f"Read {task} digits", task=task)
    if patch.nnz is None or patch.density is None:
        raise JobFailed(f"The registry did not check #{patch.number}.")
    accuracy = demo_tasks.evaluate(demo_tasks.load(tuned), digits)
    whole = (tuned / "model.safetensors").stat().st_size
    return DemoPatch(
        task, author, patch.number, patch.sha256, patch.size, whole, patch.nnz, patch.density, accuracy
    )  # fmt: skip


def merge(client: Client, patches: Sequence[DemoPatch], alpha: str, digits: "Digits", folder: Path) -> DemoMerge:
    """Compose patches at the registry, pull and verify the model, compose it here as well, and evaluate it."""
    from client.actions.composing import compose
    from client.actions.patching import apply
    from client.actions.pull import pull
    from client.actions.verify import verify
    from client.demo import tasks as demo_tasks

    composition = compose(client, MODEL, [(patch.number, "1") for patch in patches], alpha=alpha)
    recipe = composition.recipe.digest
    name = f"{len(patches)}-at-{alpha}"
    pulled, here = folder / "pulled" / name, folder / "applied" / name
    for parent in (pulled.parent, here.parent):
        parent.mkdir(exist_ok=True)
    pull(client, MODEL, recipe, pulled)
    proof = verify(client, pulled, MODEL, recipe)
    files = [(folder / "patches" / f"{patch.task}.safetensors", "1") for patch in patches]
    applied = apply(folder / "base", files, here, alpha=alpha, device="cpu")
    if not proof.ok or applied.weights_digest != proof.expected:
        raise DigestMismatch(
            f"{MODEL}@{recipe[:12]} should have weights {proof.expected}, but {proof.found} was pulled and "
            f"{applied.weights_digest} comes out here."
        )
    tuned = [folder / "tuned" / patch.task for patch in patches]
    return DemoMerge(
        alpha=alpha,
        patches=[patch.number for patch in patches],
        tasks=[patch.task for patch in patches],
        recipe=recipe,
        weights_digest=proof.expected,
        verified=proof.ok,
        composed_here=applied.weights_digest,
        device=composition.device or "",
        accuracy=demo_tasks.evaluate(demo_tasks.load(pulled), digits),
        task_arithmetic=demo_tasks.evaluate(
            demo_tasks.add_directions(folder / "base", tuned, float(alpha)), digits
        ),
    )  # fmt: skip


class Clock:
    """The time of each part, in seconds."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a part and record its time."""
        now = time.monotonic()
        self.laps[name], self.last = round(now - self.last, 2), now

    def stop(self) -> dict[str, float]:
        """Return all parts, and the whole as `all`."""
        return {**self.laps, "all": round(time.monotonic() - self.start, 2)}


@contextlib.contextmanager
def _room(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="crumb-demo-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise WrongState(f"{keep} exists and is not empty; name a new folder.")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
