"""A training run on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gradlab.codecs import Codec
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, files, provenance
from gradlab.training.settings import TrainSettings, build
from gradlab.validation import checked

FINAL, LAST = "final.safetensors", "last.safetensors"
DIGESTS = "weights.json"
"""SHA-256 of each file of weights: what was measured of them can be told without them."""


class Made(NamedTuple):
    """How a finished run was trained.

    Attributes:
        warm_restarts: iterations after which training went on with a new optimizer; empty for a run in one piece, or
            resumed.
        step: how its last part was computed: ``"eager"``, ``"graph"``, or why a graph was not used.
        device: where, e.g. ``"cpu"`` or ``"cuda:0 (NVIDIA H200), torch 2.11.0"``.
    """

    warm_restarts: tuple[int, ...]
    step: str
    device: str


@dataclass(frozen=True)
class Run:
    """A trained model on disk.

    Attributes:
        folder: holds ``log.csv``, ``settings.json``, ``final.safetensors`` and ``snapshot-<iteration>.safetensors``.
        settings: what it was trained with, the fingerprint of its images included.
    """

    folder: Path
    settings: TrainSettings

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / FINAL).exists()

    def made(self) -> Made:
        """How it was trained; reads and checks the finished weights.

        Raises:
            GradlabError: not finished, or a corrupt file.
        """
        extra = checkpoints.load(self.folder / FINAL).extra
        restarts = tuple(extra.get("warm_restarts", ()))
        return Made(restarts, str(extra.get("step", "eager")), str(extra.get("device", "cpu")))

    @property
    def warm_restarts(self) -> tuple[int, ...]:
        """``made().warm_restarts``."""
        return self.made().warm_restarts

    @property
    def step(self) -> str:
        """``made().step``."""
        return self.made().step

    @property
    def device(self) -> str:
        """``made().device``."""
        return self.made().device

    def snr(self, every: int, draws: int) -> Path:
        """The CSV of the gradient SNR recorded during training, ``draws`` gradients every ``every`` iterations."""
        return self.folder / f"snr-{every}x{draws}.csv"

    def snapshot(self, iteration: int) -> Path:
        """The file of the weights after ``iteration``."""
        return self.folder / f"snapshot-{iteration}.safetensors"

    def file(self, iteration: int | None = None) -> Path:
        """The file of the weights after ``iteration``, or at the end."""
        last = iteration is None or iteration == self.settings.steps
        return self.folder / FINAL if last else self.snapshot(iteration or 0)

    def digest(self, iteration: int | None = None) -> str:
        """SHA-256 of the weights after ``iteration``, or at the end (``gradlab.runtime.checkpoints.digest``).

        Where the file was left behind on another machine, the digest that was noted when it was written.

        Raises:
            GradlabError: as ``codec``.
        """
        path = self.file(iteration)
        noted = None if path.exists() else self._noted().get(path.name)
        return noted or checkpoints.digest(self._stored(iteration).tensors)

    def note(self, *written: Path) -> None:
        """Note the digests of weights that were just written, and of others that are not noted yet."""
        before = self._noted()
        known = {name: digest for name, digest in before.items() if name not in {path.name for path in written}}
        for path in (self.folder / FINAL, *map(self.snapshot, self.settings.snapshots)):
            if path.name not in known and path.exists():
                known[path.name] = checkpoints.digest(checkpoints.load(path).tensors)
        if known != before:
            files.write_json(self.folder / DIGESTS, dict(sorted(known.items())))

    def _noted(self) -> dict[str, str]:
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
        """The model after ``iteration`` (a snapshot), or at the end; in evaluation mode, ready to compress.

        Of a run of ``"ssf2020"`` it is a ``PFrame``.

        Raises:
            GradlabError: no such snapshot, or a file that is corrupt or of other settings.
        """
        stored = self._stored(iteration)
        model: Codec = build(self.settings)  # type: ignore[assignment]
        model.load_state_dict(stored.tensors)
        return model.to(device).eval()


@checked
def run_of(settings: TrainSettings, runs: Path) -> Run:
    """Where the run of these settings lives below ``runs``.

    Raises:
        GradlabError: settings without the fingerprint of their training images, which is part of a run's identity.
    """
    if not settings.data:
        raise GradlabError("these settings name no training images: give settings.on(pictures)")
    kind = "direct-" if settings.direct_y else "2level-"
    label = settings.loss.label if settings.loss.label == "plain" else kind + settings.loss.label
    return Run(runs / f"{label}-{provenance.settings_hash(settings)}", settings)
