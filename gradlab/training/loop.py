"""Train a codec: one loop for every codec, loss and device.

A run is identified by the hash of its settings, which include the fingerprint of its images. Studies that need the same
model therefore share one run. All random numbers derive from (seed, purpose, iteration), so a resumed run gives the
same results as an uninterrupted run; on a CPU they are bitwise identical.

Call chain from settings to gradient: ``train`` -> ``Step`` -> ``Loss.parts`` -> ``codec.log_terms``, then
``ESTIMATORS[...]`` on ``OBJECTIVES[...]``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path

from gradlab.data import Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import checkpoints, distributed, files, locks, platforms, provenance, signals
from gradlab.runtime.progress import skip
from gradlab.training.hooks import (
    Checkpoints,
    Hook,
    Log,
    Recordings,
    Snapshots,
    Watch,
    tensorboard,
    write_log,
)
from gradlab.training.options import RunOptions
from gradlab.training.run import FINAL, LAST, Run, run_of
from gradlab.training.settings import TrainSettings
from gradlab.training.state import TrainState
from gradlab.training.steps import Step, StepMetrics, make_step
from gradlab.validation import checked

Training = Generator[None, None, None]
"""A run during training; each ``next`` performs one iteration."""


@checked
def train(settings: TrainSettings, pictures: Sequence[Picture], runs: Path, options: RunOptions | None = None) -> Run:
    """Train a model to the end, or return the run if it is already trained.

    If another process is training the same run, this call waits for it.

    Under ``torchrun`` or SLURM, every process makes the same call and the processes share each batch
    (``gradlab.runtime.distributed``). Crops and noise are the same as in a single process, gradients are averaged, only
    the main process writes files, and all processes stop together at the deadline.

    Args:
        settings: settings of the run.
        pictures: training images; their fingerprint is part of the run's identity.
        runs: folder that holds all runs.
        options: device, resume, deadline and so on; ``RunOptions()`` by default.

    Returns:
        The finished run; ``run.codec()`` loads the model.

    Raises:
        GradlabError: an image is smaller than a crop; the images do not match ``settings.data``; a checkpoint is
            corrupt or belongs to other settings; the device does not support the precision; the loss explodes, or it or
            a gradient is not finite. The last error names the iteration and the module where the breakdown began, saves
            the batch in ``broken.safetensors`` and keeps the last good checkpoint. With several processes: the batch
            cannot be split evenly, or a process cannot see the folder. On Windows.
        Stopped: the deadline has passed or a signal has arrived, and a checkpoint has been written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> settings = gl.TrainSettings(codec="small-hyperprior", channels=(6, 4), steps=1, batch=1, crop=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = gl.train(settings, gl.data.embedded("train"), Path(folder))
        ...     run.done, type(run.codec()).__name__
        (True, 'SmallHyperprior')
    """
    settings = settings.on(pictures)
    for _ in training(settings, pictures, runs, options or RunOptions()):
        pass
    return run_of(settings, runs)


def training(settings: TrainSettings, pictures: Sequence[Picture], runs: Path, options: RunOptions) -> Training:
    """Train a model one iteration at a time, so that several runs can take turns on one device.

    Args:
        settings: settings of the run, with the fingerprint of the pictures (``settings.on``).
        pictures: as for ``train``.
        runs: as for ``train``.
        options: as for ``train``.

    Yields:
        None after each iteration.

    Raises:
        GradlabError: as for ``train``.
        Stopped: as for ``train``.
    """
    platforms.require_posix("training")
    run, group = run_of(settings, runs), distributed.group()
    group.rows(settings.batch)
    if not group.broadcast(run.done):
        files.ensure_folder(run.folder)

        def waiting(holder: str) -> None:
            signals.raise_if_stopped(options.deadline)
            options.progress(0, f"waiting for {holder}")

        with contextlib.ExitStack() as held:
            with group.shared_errors():
                if group.is_main:
                    held.enter_context(locks.hold(run.folder, "wait until it has finished", waiting))
            if not group.broadcast(run.done):
                yield from _trained(run, pictures, options)
                return
    checkpoints.load(run.folder / FINAL, provenance.settings_hash(settings))
    run.record_digests()  # in case the run was killed right after writing its last file
    skip(options.progress, settings.steps, "already trained")


def _trained(run: Run, pictures: Sequence[Picture], options: RunOptions) -> Training:
    settings, group = run.settings, distributed.group()
    if options.snr_every and group.size > 1:
        raise GradlabError(f"{group.size} processes cannot record the gradient SNR of one run: start a single process")
    files.write_json(run.folder / "settings.json", asdict(settings))
    group.barrier()
    if not (run.folder / "settings.json").exists():
        raise GradlabError(
            f"process {group.rank} does not see {run.folder}: use an output folder that all machines share"
        )
    batches = settings.batches(pictures, options.device)
    state = TrainState.new(settings, options.device)
    if group.broadcast(options.resume and (run.folder / LAST).exists()):
        state.load(run.folder / LAST)
        skip(options.progress, state.iteration, "resumed")
    step, computed = make_step(state, batches, options.step, options.log_every)
    if computed.startswith("eager, "):
        options.progress(0, computed)
    board = tensorboard(run.folder) if options.tensorboard and group.is_main else None
    watch = Watch(state, batches, run, options.explosion)
    hooks: list[Hook] = [watch, Log(state, options.log_every, board)]
    if options.snr_every:
        hooks.append(Recordings(state, batches, run, options, board))
    snapshots = Snapshots(state, run)
    if not (state.iteration and run.snapshot(state.iteration).exists()):
        with step.placed():
            snapshots([], False)
    hooks.append(snapshots)
    if group.is_main:
        hooks.append(Checkpoints(state, run, options.checkpoint_seconds, watch.detector))
    try:
        yield from _iterations(state, step, hooks, options)
        if group.is_main:
            with step.placed():
                write_log(run.folder, state.log)
                state.finish(run.folder / FINAL, computed)
            files.remove(run.folder / LAST)
            run.record_digests(run.folder / FINAL)
        group.barrier()
    finally:
        step.close()
        if board is not None:
            board.close()


def _iterations(state: TrainState, step: Step, hooks: list[Hook], options: RunOptions) -> Training:
    settings, note = state.settings, ""
    while state.iteration < settings.steps:
        with step.placed():
            step()
            done = state.iteration
            # The same in all processes, because they exchange values whenever they read.
            due = step.synchronous or any(hook.due(done) for hook in hooks)
            rows: list[StepMetrics] = step.read() if due else []
            note = f"loss {rows[-1].loss:.3f}" if rows else note
            stop = _stop_reason(options, note, due)
            if stop and not due:
                rows = step.read()
            for hook in hooks:
                hook(rows, stop is not None)
        if stop and done < settings.steps:
            distributed.group().barrier()
            raise Stopped(f"stopped {stop} after iteration {done} of {settings.steps}")
        yield


def _stop_reason(options: RunOptions, note: str, due: bool) -> str | None:
    """Count a finished iteration and return the reason to stop after it, or None; the same in all processes."""
    stop = signals.stop_reason(options.deadline)
    try:
        options.progress(1, note)
    except Stopped:  # a signal has arrived: write the checkpoint before stopping
        stop = signals.stop_reason(options.deadline) or "early"
    group = distributed.group()
    if group.size == 1:
        return stop
    return group.coalesce(stop) if due else None  # processes agree only when they wait for the device anyway
