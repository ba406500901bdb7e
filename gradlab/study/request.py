"""Define ``Request``: the options of a run or a plan, passed as one record from the command line to the studies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError, unknown
from gradlab.runtime import distributed

if TYPE_CHECKING:
    from gradlab.data import Picture
    from gradlab.training import RunOptions
    from gradlab.training.engines import Engine

PROFILES = ("quick", "stay", "gpu", "paper")


def default_device(profile: str) -> str:
    """Return the default torch device of a profile."""
    return "cpu" if profile == "quick" else "cuda"


def _local_engine() -> Engine:
    from gradlab.training.engines import Engine

    return Engine()


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options that all studies of a run or a plan share.

    Attributes:
        profile: one of ``PROFILES``.
        options: how models are trained: device, resume, deadline and so on; by default on ``default_device(profile)``.
            With ``resume``, finished studies with the same settings, seed and inputs are skipped.
        seed: 0 or greater.
        train_images: folder of training images; None for the embedded photographs.
        test_images: folder of test images; None for the embedded photographs.
        time_limit: minutes after which training, measuring and drawing stop; finished work is kept.
        precision: precision of the transforms in training, instead of the profile's (``gradlab.codecs.precision``).
        deterministic: whether to use one thread and deterministic operations, for bitwise reproducible results.
        engine: where models are trained.
        assignments: settings to change in every study, e.g. ``"base.crop=128"`` (``gradlab.study.assignments``).
        commit: commit of the code, if it is not a git checkout; read from git by default.

    Raises:
        GradlabError: the profile is unknown, a number is out of range, the commit is not a hash, or the precision is
            given twice.

    Example:
        >>> from pathlib import Path
        >>> from gradlab.study import Request
        >>> Request(profile="quick", seed=1, time_limit=10).command(["toys"], Path("out"))
        'gradlab run toys --profile quick --out out --seed 1 --time-limit 10 --resume'
    """

    profile: str = "quick"
    options: RunOptions | None = None
    seed: int = 0
    train_images: Path | None = None
    test_images: Path | None = None
    time_limit: float | None = None
    precision: str | None = None
    deterministic: bool = False
    engine: Engine = field(default_factory=_local_engine)
    assignments: tuple[str, ...] = ()
    commit: str | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise unknown("profile", self.profile, PROFILES)
        if not 0 <= self.seed < 2**63:
            raise GradlabError(f"the seed is {self.seed}: give a whole number from 0 to 2^63 - 1")
        if self.time_limit is not None and not self.time_limit > 0:
            raise GradlabError(f"the time limit is {self.time_limit:g} minutes: give more than 0")
        if self.commit is not None and not re.fullmatch("[0-9a-f]{7,64}", self.commit):
            raise GradlabError(f"the commit is {self.commit!r}: give its hash, 7 hexadecimal digits or more")
        paths = [assignment.partition("=")[0].strip() for assignment in self.assignments]
        if self.precision is not None and any(path.endswith("precision") for path in paths):
            raise GradlabError("the precision is given by both --precision and --set: give only one of the two")

    def resolved(self, deadline: float | None = None) -> Request:
        """Return the request with device and deadline filled in, after checking the precision on the device.

        Args:
            deadline: time on ``time.monotonic()`` at which to stop; None for no deadline.

        Raises:
            GradlabError: the device or the precision is not available.
        """
        from gradlab.codecs import precision
        from gradlab.training import RunOptions

        options = self.options or RunOptions(device=distributed.group().device or default_device(self.profile))
        if self.precision is not None:
            precision.check(self.precision, options.device)
        return replace(self, options=replace(options, deadline=deadline))

    def pictures(self, purpose: str) -> list[Picture]:
        """Load all images to ``"train"`` or to ``"test"`` on, so that damaged ones are reported early.

        Raises:
            GradlabError: there are no images, or one is damaged.
        """
        from gradlab import data

        try:
            return data.load(getattr(self, f"{purpose}_images"), purpose)
        except GradlabError as error:
            raise GradlabError(f"--{purpose}-images: {error}") from error

    def command(self, names: Sequence[str], out: Path) -> str:
        """Return the command line that resumes this run.

        Args:
            names: names of the studies.
            out: output folder.
        """
        options: dict[str, Any] = {"profile": self.profile, "out": out}
        if self.options and self.options.device not in (default_device(self.profile), distributed.group().device):
            options |= {"device": self.options.device}
        options |= {"seed": self.seed, "time-limit": self.time_limit, "precision": self.precision}
        options |= {"step": self.options.step if self.options and self.options.step != "auto" else None}
        options |= {"train-images": self.train_images, "test-images": self.test_images, "commit": self.commit}
        changed = {f.name: getattr(self.engine, f.name) for f in fields(self.engine)
                   if getattr(self.engine, f.name) != f.default}  # fmt: skip
        options |= {"engine" if name == "name" else name: value for name, value in changed.items()}
        words = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
        words += [part for assignment in self.assignments for part in ("--set", assignment)]
        words += ["--deterministic"] * self.deterministic
        words += ["--tensorboard"] * bool(self.options and self.options.tensorboard)
        return shlex.join(["gradlab", "run", *names, *words, "--resume"])


def fingerprints(train: Sequence[Picture], test: Sequence[Picture]) -> dict[str, str]:
    """Return the fingerprints of the images of a run, as recorded in its provenance.

    Args:
        train: training images.
        test: test images.
    """
    from gradlab import data

    return {"train_images": data.fingerprint(train)[:12], "test_images": data.fingerprint(test)[:12]}
