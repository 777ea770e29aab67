"""Training: a callback of transformers' Trainer that pushes what was trained as a patch, at the end or on the way."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from client.actions.composing import fetch_base
from client.actions.push import Target, look_up, push_to
from client.api.client import Client, connect
from client.live.diffing import diff_of
from client.machine.config import cache
from client.machine.sources import resolve
from client.terminal.addresses import check_model
from client.terminal.console import Console
from registry.documents.trailers import of_mask
from registry.errors import BreadcrumbError, InvalidRequest
from registry.schemas import Patch


class PushPatch(TrainerCallback):  # type: ignore[misc]
    """Pushes the model that is trained as a patch: each push is the next revision of one patch.

        Trainer(model, arguments, callbacks=[PushPatch("alice/llama", "Two-digit sums", every=500)], ...)

    The registry and the base are looked up before the training begins, so that what prevents a push ends it at once. A
    push on the way that fails is told and does not end the training. Only the first process of several pushes.

    Args:
        model: NS/NAME, where the patch goes.
        title: One line on what it does.
        every: Push a revision after so many steps, too; only at the end when None.
        base: A local copy of the base, or its Hub id; the registry's, from the cache if it is there, when None.
        message: A longer description; the number of steps is added to it.
        task: What it is for, like math or code/python.
        license: Of the patch, like apache-2.0.
        propose: Whether to ask for review of the last revision.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.
        **options: Options of `client.diff`, like `drop_bottom="0.9"`.

    Attributes:
        patch: The patch as it was pushed last; None before that.
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
        self.patch: Patch | None = None
        self._given, self._url, self._token = client, url, token

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look up what a push needs."""
        if state.is_world_process_zero:
            with self._registry() as client:
                self._files(client, look_up(client, self.model))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Push a revision, if it is time."""
        step = state.global_step
        if self.every is None or step % self.every or step >= state.max_steps or not state.is_world_process_zero:
            return
        try:
            self._push(kwargs["model"], step, last=False)
        except BreadcrumbError as why:
            self.console.note(f"Step {step} was not pushed: {why}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Push what came out."""
        if state.is_world_process_zero:
            self._push(kwargs["model"], state.global_step, last=True)

    def _push(self, module: torch.nn.Module, step: int, *, last: bool) -> None:
        cache().mkdir(parents=True, exist_ok=True)
        with self._registry() as client, tempfile.TemporaryDirectory(prefix="trained-", dir=cache()) as folder:
            target = look_up(client, self.model)
            options = {**of_mask(target.mask), **self.options}
            out = Path(folder) / "patch.safetensors"
            made = diff_of(module, self._files(client, target), out, quiet=self.quiet, **options)
            self.patch = push_to(
                client,
                target,
                out,
                made.base,
                self.title,
                message=f"{self.message}\n\nAfter {step} steps.".strip(),
                task=self.task,
                license=self.license,
                propose=self.propose and last,
                update=None if self.patch is None else self.patch.number,
                wait=last,
                console=self.console,
            )

    def _files(self, client: Client, target: Target) -> Path | dict[str, Path]:
        if self.base is not None:
            return resolve(self.base, quiet=self.quiet)
        return fetch_base(client, self.model, target.base, console=self.console)

    def _registry(self) -> contextlib.AbstractContextManager[Client]:
        return contextlib.nullcontext(self._given) if self._given is not None else connect(self._url, self._token)
