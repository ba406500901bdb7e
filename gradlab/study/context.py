"""What a study gets besides its settings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.runtime.progress import Progress
from gradlab.study.pieces import Parts, Piece, joined
from gradlab.study.request import Request

if TYPE_CHECKING:
    from pandas import DataFrame

    from gradlab.training import RunOptions


@dataclass(frozen=True, kw_only=True)
class Context(Request):
    """A request, with the folders and the progress display of one study.

    Attributes:
        options: how models are trained: device, resume, deadline and so on.
        out: the output folder, which the studies of a run share.
        folder: the folder of this study in ``out``.
        progress: shows how far a task has come.
        inputs: name -> fingerprint of what the study read; the study fills it, for its provenance.
        parts: measures piece by piece, and keeps long pieces until the study is complete.
    """

    options: RunOptions
    out: Path
    folder: Path
    progress: Progress
    inputs: dict[str, str] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)

    @property
    def runs(self) -> Path:
        """The folder of the training runs, which studies share."""
        return self.out / "runs"

    @property
    def device(self) -> str:
        """The torch device that the study runs on."""
        return self.options.device

    def measure(self, description: str, pieces: Sequence[Piece]) -> dict[str, DataFrame]:
        """Measure the pieces of a study, or read what was kept of them, and join their rows.

        Args:
            description: what the progress bar shows.
            pieces: in order; each ``measure`` is called with the keyword ``advance``, which counts its units.

        Raises:
            Stopped: as ``Parts.each``.
        """
        with self.progress.track(description, sum(piece.units for piece in pieces)) as advance:
            bound = [piece._replace(measure=functools.partial(piece.measure, advance=advance)) for piece in pieces]
            return joined(self.parts.each(bound, advance))
