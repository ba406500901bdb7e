"""Represent a training run on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gradlab.codecs import Codec
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, files, heartbeat, provenance
from gradlab.runtime.display import shown
from gradlab.training.settings import TrainSettings, build
from gradlab.validation import checked

FINAL, LAST = "final.safetensors", "last.safetensors"
DIGESTS = "weights.json"
"""Name of the file with the SHA-256 of each weights file; identifies evaluated weights even if they are not present."""


class TrainingRecord(NamedTuple):
    """Record of how a finished run was trained.

    Attributes:
        warm_restarts: iterations after which training continued with a new optimizer; empty if this never happened.
        step: training step of the last session: ``"eager"``, ``"graph"``, or the reason why no graph was used.
        device: e.g. ``"cpu"`` or ``"cuda:0 (NVIDIA H200), torch 2.11.0"``.
    """

    warm_restarts: tuple[int, ...]
    step: str
    device: str


@shown
@dataclass(frozen=True)
class Run:
    """A training run on disk.

    ``train`` and ``run_of`` return it.

    Attributes:
        folder: folder with ``log.csv``, ``settings.json``, ``final.safetensors`` and
            ``snapshot-<iteration>.safetensors``.
        settings: settings of the run, with the fingerprint of the training images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> settings = gl.TrainSettings(
        ...     codec="small-hyperprior", channels=(6, 4), steps=2, snapshots=(1,), batch=1, crop=16
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = gl.train(settings, gl.data.embedded("train"), Path(folder))
        ...     run.done, run.record().step
        ...     run.digest() == run.digest(1)
        ...     type(run.codec(1)).__name__
        (True, 'eager')
        False
        'SmallHyperprior'
        >>> run.snapshot(1).name, run.file(1).name, run.file().name
        ('snapshot-1.safetensors', 'snapshot-1.safetensors', 'final.safetensors')
    """

    folder: Path
    settings: TrainSettings

    @property
    def done(self) -> bool:
        """Whether training has finished."""
        return (self.folder / FINAL).exists()

    def _progress(self) -> str:
        """Describe how far the run is, from what its folder says of it."""
        total = self.settings.steps
        if self.done:
            return f"{total:_} of {total:_} iterations"
        state = heartbeat.read(self.folder)
        if state is None:
            return f"unfinished, {total:_} iterations" if self.folder.exists() else f"not begun, {total:_} iterations"
        return f"{state.done:_} of {total:_} iterations, {state.current}"

    def _repr_line_(self) -> str:
        return f"{self.folder.name!r}, {self._progress()}"

    def _repr_rows_(self) -> dict[str, object]:
        settings = self.settings
        codec = f"{settings.codec}, channels {settings.channels}" + ("" if settings.direct_y else ", without direct-y")
        return {
            "folder": str(self.folder),
            "progress": self._progress(),
            "codec": codec,
            "lam": settings.lam,
            "loss": settings.loss,
            "seed": settings.seed,
            "settings": provenance.settings_hash(settings),
        }

    def record(self) -> TrainingRecord:
        """Return how the run was trained; reads and verifies the final weights.

        Raises:
            GradlabError: training has not finished, or the file is corrupt.
        """
        restarts, step, device = checkpoints.load(self.folder / FINAL).entries("warm_restarts", "step", "device")
        return TrainingRecord(tuple(restarts), step, device)

    def snr(self, every: int, draws: int) -> Path:
        """Return the path of the gradient-SNR table that a run with these options writes.

        Args:
            every: iterations between recordings (``RunOptions.snr_every``).
            draws: gradients per recording (``RunOptions.snr_draws``).

        Example:
            >>> import gradlab as gl
            >>> from pathlib import Path
            >>> gl.training.Run(Path("run"), gl.TrainSettings()).snr(every=50, draws=20).name
            'snr-50x20.csv'
        """
        return self.folder / f"snr-{every}x{draws}.csv"

    def snapshot(self, iteration: int) -> Path:
        """Return the path of the weights saved after some iteration.

        Args:
            iteration: iteration of the snapshot.
        """
        return self.folder / f"snapshot-{iteration}.safetensors"

    def file(self, iteration: int | None = None) -> Path:
        """Return the path of the weights after some iteration.

        Args:
            iteration: iteration of the weights; None for the final weights.
        """
        last = iteration is None or iteration == self.settings.steps
        return self.folder / FINAL if last else self.snapshot(iteration or 0)

    def digest(self, iteration: int | None = None) -> str:
        """Return the SHA-256 of the weights after some iteration (``runtime.checkpoints.digest``).

        If the weights file is not present, returns the digest that was recorded when the file was written.

        Args:
            iteration: iteration of the weights; None for the final weights.

        Raises:
            GradlabError: as for ``codec``.
        """
        path = self.file(iteration)
        recorded = None if path.exists() else self._digests().get(path.name)
        return recorded or checkpoints.digest(self._stored(iteration).tensors)

    def record_digests(self, *written: Path) -> None:
        """Record the digests of newly written weights, and of existing weights without a recorded digest.

        ``train`` calls this; call it after writing weights into the folder by other means.

        Args:
            *written: paths of the weights files that were just written.

        Example:
            >>> import gradlab as gl
            >>> from pathlib import Path
            >>> run = gl.training.Run(Path("run"), gl.TrainSettings())
            >>> run.record_digests()  # the folder holds no weights, so there is nothing to record
        """
        before = self._digests()
        digests = {name: digest for name, digest in before.items() if name not in {path.name for path in written}}
        for path in (self.folder / FINAL, *map(self.snapshot, self.settings.snapshots)):
            if path.name not in digests and path.exists():
                digests[path.name] = checkpoints.digest(checkpoints.load(path).tensors)
        if digests != before:
            files.write_json(self.folder / DIGESTS, dict(sorted(digests.items())))

    def _digests(self) -> dict[str, str]:
        try:
            return files.read_json(self.folder / DIGESTS)
        except GradlabError:  # missing or corrupt
            return {}

    def _stored(self, iteration: int | None) -> checkpoints.Stored:
        path = self.file(iteration)
        if path.name != FINAL and not path.exists():
            raise GradlabError(
                f"the weights after {iteration} iterations are not in {self.folder}: copy them there (gradlab pack "
                f"--snapshot {iteration}), or delete the folder to train again"
            )
        return checkpoints.load(path, provenance.settings_hash(self.settings))

    def codec(self, iteration: int | None = None, device: str = "cpu") -> Codec:
        """Load the model in evaluation mode, ready to compress.

        Args:
            iteration: iteration of a snapshot; None for the final weights.
            device: torch device to load the model on.

        Returns:
            The codec, or a ``PFrame`` for ``"ssf2020"``.

        Raises:
            GradlabError: the weights do not exist, are corrupt, or belong to other settings.
        """
        stored = self._stored(iteration)
        model: Codec = build(self.settings)  # type: ignore[assignment]
        model.load_state_dict(stored.tensors)
        return model.to(device).eval()


@checked
def run_of(settings: TrainSettings, runs: Path) -> Run:
    """Return the run of some settings; its folder is named after their hash.

    Args:
        settings: settings with the fingerprint of their training images (``settings.on``).
        runs: folder that holds all runs.

    Returns:
        The run, whether it is trained or not (see ``Run.done``).

    Raises:
        GradlabError: the settings have no fingerprint of training images, which is part of a run's identity.

    Example:
        >>> import gradlab as gl
        >>> from pathlib import Path
        >>> settings = gl.TrainSettings(loss=gl.Loss("ms-nic-mix", k=5)).on(gl.data.embedded("train"))
        >>> gl.training.run_of(settings, Path("runs")).folder.name  # doctest: +ELLIPSIS
        'direct-ms-nic-mix-pathwise-k5-...'
    """
    if not settings.data:
        raise GradlabError("the settings have no fingerprint of training images: give settings.on(pictures)")
    kind = "direct-" if settings.direct_y else "2level-"
    label = settings.loss.label if settings.loss.label == "plain" else kind + settings.loss.label
    return Run(runs / f"{label}-{provenance.settings_hash(settings)}", settings)
