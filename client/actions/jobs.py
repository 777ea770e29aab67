"""Waiting for jobs of a registry."""

import time
from collections.abc import Callable

from client.api.client import Client
from client.terminal.console import Console
from registry.errors import JobCancelled, JobFailed, Unavailable
from registry.schemas import Job

IDLE = 10.0  # seconds in the queue before a person is told that no worker is free
WAIT = 5.0  # seconds that the registry lets a call wait for a change
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between looks at a job, where it answers at once


def wait(
    client: Client,
    job: Job,
    *,
    progress: Callable[[float], None] | None = None,
    idle: Callable[[], None] | None = None,
    failing: Callable[[str], None] | None = None,
    timeout: float | None = None,
) -> Job:
    """Wait until a job has ended, and return it as it ended.

    Args:
        client: The registry.
        job: The job, as an answer carried it.
        progress: Called with a number from 0 to 1 at every look.
        idle: Called once when no worker has taken the job for some seconds.
        failing: Called with the error of an attempt that failed, if the job is tried again.
        timeout: Seconds; None waits for ever.

    Raises:
        JobFailed: The job failed; the message is the registry's.
        JobCancelled: Somebody cancelled the job.
        Unavailable: The timeout passed.
    """
    start, pause, told = time.monotonic(), FIRST_PAUSE, None
    while job.state in ("queued", "running"):
        if progress is not None:
            progress(min(1.0, max(0.0, job.progress)))
        if failing is not None and job.error is not None and job.error != told:
            told = job.error
            failing(told)
        if timeout is not None and time.monotonic() - start > timeout:
            raise Unavailable(f"Job {job.id} ({job.kind} of {job.model}) is still {job.state}; ask again later.")
        if idle is not None and job.state == "queued" and time.monotonic() - start > IDLE:
            idle()
            idle = None
        before, asked = job, time.monotonic()
        due = [] if timeout is None else [start + timeout]
        due += [start + IDLE] if idle is not None and job.state == "queued" else []
        job = client.job(job.id, wait=min(WAIT, *(max(0.0, at - asked) for at in due)) if due else WAIT)
        if job == before and time.monotonic() - asked < pause:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.5)
    if job.state == "failed":
        raise JobFailed(job.error or f"The {job.kind} of {job.subject} in {job.model} failed without a reason.")
    if job.state == "cancelled":
        raise JobCancelled(f"The {job.kind} of {job.subject} in {job.model} was cancelled.")
    if progress is not None:
        progress(1.0)
    return job


def watch(client: Client, job: Job, label: str, console: Console, *, interrupted: str | None = None) -> Job:
    """Wait for a job with a progress bar.

    Args:
        client: The registry.
        job: The job, as an answer carried it.
        label: Beside the bar, like `composing 0123abcd`.
        console: Where bar and notes go.
        interrupted: A note for whoever presses Ctrl-C, since the registry continues.

    Raises:
        JobFailed: The job failed; the message is the registry's.
        JobCancelled: Somebody cancelled the job.
    """
    try:
        with console.waiting(label) as progress:
            return wait(client, job, progress=progress, idle=console.idle, failing=console.failing)
    except KeyboardInterrupt:
        if interrupted is not None:
            console.note(f"\n{interrupted}")
        raise
