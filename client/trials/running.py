"""Running: a person's command on the folder of a model.

A command is run without a shell; `{model}` in an argument becomes the folder of the model, which is the last argument
if no argument has it, and $CRUMB_MODEL in any case. $CRUMB_TOKEN is not passed on to it.
"""

import contextlib
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.machine.config import child_environment
from registry.errors import InvalidRequest, JobFailed

OUTPUT = 16 * 2**20  # bytes of a command's output that are kept, its last ones
PATIENCE = 1.0  # seconds that a command has to end when crumb must
PAUSE = 0.2  # seconds between looks at whether to end it
HOLDER = "{model}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a command: its exit code (or minus the signal that ended it), the end of its stdout, seconds."""

    code: int
    output: str
    seconds: float


def check_command(command: Sequence[str]) -> None:
    """Check that a command can be found, before anything is downloaded for it.

    Raises:
        InvalidRequest: No command is given, or there is no such command.
    """
    if not command:
        raise InvalidRequest("No command is given; write it after two dashes: -- COMMAND ARGUMENT…", field="command")
    if HOLDER not in command[0] and shutil.which(command[0]) is None:
        raise InvalidRequest(f"There is no command {command[0]!r} that can be run here.", field="command")


def run_command(command: Sequence[str], folder: Path, ended: threading.Event | None = None) -> Trial:
    """Run a command on a model's folder and wait for it; stderr and stdin stay the terminal's.

    Args:
        command: Its words; see above.
        folder: Of the model.
        ended: Ends the command once it is set, for threads that no signal reaches.

    Raises:
        JobFailed: The command was ended.
        InvalidRequest: The command cannot be run.
    """
    words = [word.replace(HOLDER, str(folder)) for word in command]
    if not any(HOLDER in word for word in command):
        words.append(str(folder))
    start, output = time.monotonic(), bytearray()
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=child_environment(CRUMB_MODEL=str(folder)))
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        raise InvalidRequest(f"The command {words[0]!r} cannot be run: {reason}.", field="command") from why
    with process:
        assert process.stdout is not None
        try:
            while block := _read(process.stdout.fileno(), ended):
                output += block
                if len(output) > 2 * OUTPUT:
                    del output[:-OUTPUT]
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            raise
    return Trial(code, output[-OUTPUT:].decode("utf-8", "replace"), time.monotonic() - start)


def _read(file: int, ended: threading.Event | None) -> bytes:
    while ended is not None and not select.select([file], [], [], PAUSE)[0]:
        if ended.is_set():
            raise JobFailed("The command was ended.")
    return os.read(file, 2**16)


def run_successfully(command: Sequence[str], folder: Path, what: str, ended: threading.Event | None = None) -> Trial:
    """Run a command on a model and return what it did.

    Args:
        command: See `run_command`.
        folder: Of the model.
        what: The model's name, for the message.
        ended: See `run_command`.

    Raises:
        JobFailed: The command ended with another exit code than 0.
    """
    trial = run_command(command, folder, ended)
    if trial.code:
        raise JobFailed(f"The command failed on {what}: {ending(trial.code)}.")
    return trial


def ending(code: int) -> str:
    """Return how a command ended, in words."""
    return f"signal {-code} ended it" if code < 0 else f"exit code {code}"
