"""Define ``Context``: everything a study receives besides its settings."""

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
    """A request with the folders and the progress display of one study.

    Attributes:
        options: how models are trained: device, resume, deadline and so on.
        out: output folder, shared by the studies of a run.
        folder: folder of this study in ``out``.
        progress: shows the progress of tasks.
        inputs: fingerprints of the inputs that the study read, by name; filled in by the study, for its provenance.
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
        """Folder of the training runs, shared by the studies of a run."""
        return self.out / "runs"

    @property
    def device(self) -> str:
        """Torch device of the study."""
        return self.options.device

    def measure(self, description: str, pieces: Sequence[Piece]) -> dict[str, DataFrame]:
        """Measure the pieces of a study, or read kept ones, and concatenate their rows.

        Args:
            description: title of the progress bar.
            pieces: the pieces, in order; each ``measure`` is called with the keyword ``advance``, which counts its
                units.

        Returns:
            The rows of each table, by name.

        Raises:
            Stopped: as for ``Parts.each``.
        """
        with self.progress.track(description, sum(piece.units for piece in pieces)) as advance:
            bound = [piece._replace(measure=functools.partial(piece.measure, advance=advance)) for piece in pieces]
            return joined(self.parts.each(bound, advance))
