"""`crumb demo`: the whole product on this machine, in about a minute.

    server, users ──┐
    digits -> base -> six fine-tuned models -> six patches, pushed by six people -> subsets composed at the registry
           -> pulled, verified, composed here too -> loaded with from_pretrained -> accuracies on the test part

Everything that a contributor or a user does goes through the same functions as `crumb`, over HTTP. Seeds are fixed,
no weight is trained on the test part, and what comes out is shown as it is. It shows the machinery, not how good the
method is: tasks and the second alpha were chosen while looking at this very test part.
"""

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.api.client import Client
from client.demo.report import Contribution, Merge, Outcome, show
from client.demo.server import start
from client.terminal.console import Console
from registry.errors import DigestMismatch, JobFailed, NotFound, WrongState
from registry.schemas import Composition, Patch

if TYPE_CHECKING:
    from client.demo.tasks import Digits

OWNER, MODEL = "mira", "mira/digits"
CONTRIBUTORS = ("ada", "ben", "chloe", "dov", "emeka", "fumi")
ALPHAS = ("0.3", "0.6")  # the default, and one at which the two methods part
SUBSETS = (2, 4, 6)
NEEDED = {"sklearn": "scikit-learn", "transformers": "transformers"}


def run_demo(keep: Path | None, json_output: bool, quiet: bool) -> None:
    """Run the demo and print what came out.

    Args:
        keep: An empty or new folder where everything is left; a temporary folder, removed at the end, when None.
        json_output: Print one JSON document with all numbers.
        quiet: Say nothing on the way, and in the end only recipe and weights digest of each composed model.

    Raises:
        NotFound: The packages that train are not installed.
        WrongState: `keep` holds something.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise NotFound(
            f"The demo trains models and needs {' and '.join(missing)}, its extra: pip install "
            "'breadcrumb-registry[demo]', or '.[demo]' in a checkout."
        )
    console = Console(json_output, quiet)
    with _room(keep) as folder:
        outcome = play(folder, console)
    brief = "\n".join(f"{merge.recipe} {merge.weights_digest}" for merge in outcome.compositions)
    console.result(asdict(outcome), "", brief)
    if not (json_output or quiet):
        show(outcome)
        if keep is not None:
            print(f"\nEverything is in {keep}. Serve it again: crumb-server serve --data {keep / 'registry'}")


def play(folder: Path, console: Console) -> Outcome:
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
    return Outcome(
        MODEL, created.base, created.parameters, created.size, len(digits.test.labels), accuracy, patches, merges,
        clock.stop(),
    )  # fmt: skip


@dataclass(frozen=True)
class Base:
    """The model as the registry has it: weights digest, number of weights, size of the weight file in bytes."""

    base: str
    parameters: int
    size: int


def _create(client: Client, base: Path, console: Console) -> Base:
    from client.actions.push import create

    console.note(f"{OWNER} creates {MODEL} with this base.")
    made = create(client, MODEL, base)
    if made.base is None or made.parameters is None:
        raise JobFailed(f"The registry did not import the base of {MODEL}.")
    return Base(made.base, made.parameters, (base / "model.safetensors").stat().st_size)


def contribute(client: Client, author: str, task: str, digits: "Digits", folder: Path) -> Contribution:
    """Fine-tune the base on a task, make the patch, push it, and wait for the registry's check."""
    from client.actions.push import push
    from client.demo import tasks as demo_tasks
    from registry.breadcrumbs.diffing.diff import diff
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint

    base, tuned, file = folder / "base", folder / "tuned" / task, folder / "patches" / f"{task}.safetensors"
    tuned.mkdir(parents=True)
    file.parent.mkdir(exist_ok=True)
    demo_tasks.fine_tune(base, task, digits, tuned)
    with open_checkpoint(base) as before, open_checkpoint(tuned) as after:
        diff(before, after, file)
    patch: Patch = push(client, file, MODEL, f"Read {task} digits", task=task)
    if patch.nnz is None or patch.density is None:
        raise JobFailed(f"The registry did not check #{patch.number}.")
    accuracy = demo_tasks.evaluate(demo_tasks.load(tuned), digits)
    whole = (tuned / "model.safetensors").stat().st_size
    return Contribution(
        task, author, patch.number, patch.sha256, patch.size, whole, patch.nnz, patch.density, accuracy
    )  # fmt: skip


def merge(client: Client, patches: Sequence[Contribution], alpha: str, digits: "Digits", folder: Path) -> Merge:
    """Compose patches at the registry, pull and verify the model, compose it here as well, and evaluate it."""
    from client.actions.apply import apply
    from client.actions.pull import pull, verify
    from client.demo import tasks as demo_tasks

    made = _compose(client, [patch.number for patch in patches], alpha)
    name = f"{len(patches)}-at-{alpha}"
    pulled, here = folder / "pulled" / name, folder / "applied" / name
    for parent in (pulled.parent, here.parent):
        parent.mkdir(exist_ok=True)
    pull(client, MODEL, made.recipe.digest, pulled)
    proof = verify(client, pulled, MODEL, made.recipe.digest)
    files = [(folder / "patches" / f"{patch.task}.safetensors", "1") for patch in patches]
    applied = apply(folder / "base", files, here, alpha=alpha, device="cpu")
    if not proof.ok or applied.weights_digest != proof.expected:
        raise DigestMismatch(
            f"{MODEL}@{made.recipe.digest[:12]} should have weights {proof.expected}, but {proof.found} was pulled and "
            f"{applied.weights_digest} comes out here."
        )
    tuned = [folder / "tuned" / patch.task for patch in patches]
    return Merge(
        alpha=alpha,
        patches=[patch.number for patch in patches],
        tasks=[patch.task for patch in patches],
        recipe=made.recipe.digest,
        weights_digest=proof.expected,
        verified=proof.ok,
        composed_here=applied.weights_digest,
        device=made.device or "",
        accuracy=demo_tasks.evaluate(demo_tasks.load(pulled), digits),
        task_arithmetic=demo_tasks.evaluate(
            demo_tasks.add_directions(folder / "base", tuned, float(alpha)), digits
        ),
    )  # fmt: skip


def _compose(client: Client, numbers: Sequence[int], alpha: str) -> Composition:
    items = [(number, "1") for number in numbers]
    made = client.compose(MODEL, items, alpha=alpha)
    if made.weights_digest is None and made.job is not None:
        client.wait(made.job)
        made = client.compose(MODEL, items, alpha=alpha)
    return made


class Clock:
    """Takes the time of each part, in seconds."""

    def __init__(self) -> None:
        self.begun = self.last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.monotonic()
        self.laps[name], self.last = round(now - self.last, 2), now

    def stop(self) -> dict[str, float]:
        """Return all parts, and the whole as `all`."""
        return {**self.laps, "all": round(time.monotonic() - self.begun, 2)}


@contextlib.contextmanager
def _room(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="crumb-demo-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise WrongState(f"{keep} is there and not empty; name a new folder.")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
