"""A training run on disk."""

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
"""SHA-256 of each file of weights: identifies what was evaluated, also where the weights were left behind."""


class TrainingRecord(NamedTuple):
    """How a finished run was trained.

    Attributes:
        warm_restarts: iterations after which training went on with a new optimizer; empty for a run in one piece, or
            resumed.
        step: the step of its last part: ``"eager"``, ``"graph"``, or why a graph was not used.
        device: e.g. ``"cpu"`` or ``"cuda:0 (NVIDIA H200), torch 2.11.0"``.
    """

    warm_restarts: tuple[int, ...]
    step: str
    device: str


@shown
@dataclass(frozen=True)
class Run:
    """A trained model on disk.

    Attributes:
        folder: holds ``log.csv``, ``settings.json``, ``final.safetensors`` and ``snapshot-<iteration>.safetensors``.
        settings: its settings, with the fingerprint of the training images.
    """

    folder: Path
    settings: TrainSettings

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
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
        """Return how the run was trained; reads and checks the finished weights.

        Raises:
            GradlabError: not finished, or a corrupt file.
        """
        restarts, step, device = checkpoints.load(self.folder / FINAL).entries("warm_restarts", "step", "device")
        return TrainingRecord(tuple(restarts), step, device)

    def snr(self, every: int, draws: int) -> Path:
        """Return the path of the CSV of the gradient SNR, of ``draws`` gradients every ``every`` iterations."""
        return self.folder / f"snr-{every}x{draws}.csv"

    def snapshot(self, iteration: int) -> Path:
        """Return the path of the weights after ``iteration``."""
        return self.folder / f"snapshot-{iteration}.safetensors"

    def file(self, iteration: int | None = None) -> Path:
        """Return the path of the weights after ``iteration``, or at the end."""
        last = iteration is None or iteration == self.settings.steps
        return self.folder / FINAL if last else self.snapshot(iteration or 0)

    def digest(self, iteration: int | None = None) -> str:
        """Return the SHA-256 of the weights after ``iteration``, or at the end (``runtime.checkpoints.digest``).

        If the file was left behind on another machine, this is the digest recorded when it was written.

        Raises:
            GradlabError: as ``codec``.
        """
        path = self.file(iteration)
        recorded = None if path.exists() else self._digests().get(path.name)
        return recorded or checkpoints.digest(self._stored(iteration).tensors)

    def record_digests(self, *written: Path) -> None:
        """Record the digests of weights that were just written, and of others that have none yet."""
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
        except GradlabError:  # absent or damaged
            return {}

    def _stored(self, iteration: int | None) -> checkpoints.Stored:
        path = self.file(iteration)
        if path.name != FINAL and not path.exists():
            raise GradlabError(
                f"the weights after {iteration} iterations are not in {self.folder}: bring them there (gradlab pack "
                f"--snapshot {iteration}), or delete the folder to train again"
            )
        return checkpoints.load(path, provenance.settings_hash(self.settings))

    def codec(self, iteration: int | None = None, device: str = "cpu") -> Codec:
        """Load the model after ``iteration`` (a snapshot), or at the end, in evaluation mode, ready to compress.

        For ``"ssf2020"`` it is a ``PFrame``.

        Raises:
            GradlabError: no such snapshot, or a file that is corrupt or of other settings.
        """
        stored = self._stored(iteration)
        model: Codec = build(self.settings)  # type: ignore[assignment]
        model.load_state_dict(stored.tensors)
        return model.to(device).eval()


@checked
def run_of(settings: TrainSettings, runs: Path) -> Run:
    """Return the run of these settings, in its folder below ``runs``.

    Raises:
        GradlabError: settings without the fingerprint of their training images, which is part of a run's identity.
    """
    if not settings.data:
        raise GradlabError("these settings name no training images: give settings.on(pictures)")
    kind = "direct-" if settings.direct_y else "2level-"
    label = settings.loss.label if settings.loss.label == "plain" else kind + settings.loss.label
    return Run(runs / f"{label}-{provenance.settings_hash(settings)}", settings)
