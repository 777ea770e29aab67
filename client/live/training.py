"""Training: a callback of transformers' Trainer that pushes what was trained as a patch, at the end or on the way."""

import contextlib
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from client.actions.composing import fetch_base
from client.actions.push import Target, look_up, push_to
from client.api.client import Client, connect
from client.live.diffing import check_diff, diff_of
from client.machine.config import cache
from client.machine.sources import resolve
from client.terminal.addresses import check_model
from client.terminal.console import Console
from registry.documents.trailers import of_mask
from registry.errors import BreadcrumbError, InvalidRequest, WrongState
from registry.schemas import Patch

NUMBER, KEPT = "crumb-patch.json", "crumb-patch.safetensors"


class PushPatch(TrainerCallback):  # type: ignore[misc]
    """Pushes the model that is trained as a patch: each push is the next revision of one patch.

        Trainer(model, arguments, callbacks=[PushPatch("alice/llama", "Two-digit sums", every=500)], ...)

    The registry and the base are looked up before the training begins, and the model compared with the base, so that
    what prevents a push ends it at once. A push that fails later is told and does not end the training; the patch of
    the last one is kept in the output folder then. Only the first process of several pushes.

    A training that is resumed from a checkpoint goes on with the patch whose number the output folder keeps.

    Args:
        model: NS/NAME, where the patch goes.
        title: One line on what it does.
        every: Push a revision after so many steps, too; only at the end when None.
        base: A local copy of the base, or its Hub id; the registry's, from the cache if it is there, when None.
        message: A longer description; the number of steps is added to it.
        task: What it is for, like math or code/python.
        license: Of the patch, like apache-2.0.
        propose: Whether to ask for review of the last revision.
        update: Number of a patch of yours, to which the first push is the next revision.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.
        **options: Options of `client.diff`, like `drop_bottom="0.9"`.

    Attributes:
        patch: The patch as it was pushed last; None before that.
        failed: Why the last push failed; None if it did not.
    """

    def __init__(
        self,
        model: str,
        title: str,
        *,
        every: int | None = None,
        base: str | Path | None = None,
        message: str = "",
        task: str | None = None,
        license: str | None = None,
        propose: bool = False,
        update: int | None = None,
        client: Client | None = None,
        url: str | None = None,
        token: str | None = None,
        quiet: bool = False,
        **options: Any,
    ) -> None:
        if every is not None and every < 1:
            raise InvalidRequest("`every` is a number of steps, 1 or more.", field="every")
        if client is not None and (url is not None or token is not None):
            raise InvalidRequest("Give a client, or url and token, not both.", field="client")
        self.model, self.title, self.every, self.base = check_model(model), title, every, base
        self.message, self.task, self.license, self.propose = message, task, license, propose
        self.options, self.console, self.quiet = options, Console(quiet=quiet), quiet
        self.update = update
        self.patch: Patch | None = None
        self._known: tuple[Target, Path | dict[str, Path]] | None = None
        self.failed: BreadcrumbError | None = None
        self._given, self._url, self._token = client, url, token

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look up what a push needs."""
        if state.is_world_process_zero:
            if state.global_step and self.update is None:
                self.update = self._read_number(Path(args.output_dir))
            with self._registry() as client:
                target = look_up(client, self.model)
                files = self._files(client, target)
            check_diff(kwargs["model"], files, **{**of_mask(target.mask), **self.options})
            self._known = target, files

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Push a revision, if it is time."""
        step = state.global_step
        if self.every is None or step % self.every or step >= state.max_steps or not state.is_world_process_zero:
            return
        try:
            cache().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="trained-", dir=cache()) as folder:
                self._push(kwargs["model"], f"{step} steps", Path(folder) / KEPT, Path(args.output_dir), last=False)
        except BreadcrumbError as why:
            self.console.note(f"Step {step} was not pushed: {why}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Push what came out."""
        if not state.is_world_process_zero:
            return
        best = state.best_global_step if args.load_best_model_at_end and state.best_model_checkpoint else None
        trained = f"{state.global_step} steps" if best is None else f"{best} steps, the best of {state.global_step}"
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / KEPT
        out.unlink(missing_ok=True)
        try:
            self._push(kwargs["model"], trained, out, folder, last=True)
        except BreadcrumbError as why:
            self.failed = why
            known = isinstance(why, WrongState) and why.field == "sha256"  # the registry has the bytes
            push = shlex.join(["crumb", "push", str(out), self.model, "-m", self.title])
            told = f" It is kept; push it with `{push}`." if out.exists() and not known else ""
            Console().note(f"The patch after {trained} was not pushed: {why}{told}")
            if not known:
                return
        out.unlink(missing_ok=True)

    def _push(self, module: torch.nn.Module, trained: str, out: Path, folder: Path, *, last: bool) -> None:
        assert self._known is not None  # since the training began
        target, files = self._known
        made = diff_of(module, files, out, quiet=self.quiet, **{**of_mask(target.mask), **self.options})
        with self._registry() as client:
            self.patch = push_to(
                client,
                target,
                out,
                made.base,
                self.title,
                message=f"{self.message}\n\nAfter {trained}.".strip(),
                task=self.task,
                license=self.license,
                propose=self.propose and last,
                update=self.update,
                wait=last,
                console=self.console,
            )
        self.update = self.patch.number
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NUMBER).write_text(json.dumps({"model": self.model, "number": self.update}), "utf-8")

    def _read_number(self, folder: Path) -> int | None:
        """Return the patch that an earlier run of this training has pushed, if it has."""
        try:
            kept = json.loads((folder / NUMBER).read_text("utf-8"))
            return int(kept["number"]) if kept["model"] == self.model else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _files(self, client: Client, target: Target) -> Path | dict[str, Path]:
        if self.base is not None:
            return resolve(self.base, quiet=self.quiet)
        return fetch_base(client, self.model, target.base, console=self.console)

    def _registry(self) -> contextlib.AbstractContextManager[Client]:
        return contextlib.nullcontext(self._given) if self._given is not None else connect(self._url, self._token)
