"""What a case is, and the process that runs one contender of it.

    parent (run.py)                     child (child.py), one process per contender
      start both children       --->      set up, run once to warm up, say "ready"
      "go" to ours, then peer   --->      run, say the seconds          (the other one is asleep)
      ... at least 5 pairs ...
      "end"                     --->      say the peak of memory

Light on purpose: it is imported by every child, in the project's environment and in that of the peers.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# glibc's defaults give large blocks back to the system after every use and cost folded batches 7 to 43 %.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
TIMEOUT = 300


@dataclass(frozen=True)
class Options:
    """How large the cases are.

    Attributes:
        quick: small sizes, for a run of minutes that shows that everything runs.
        threads: of torch, and of every peer that takes a number.
        images: folder of test images; None: the embedded photographs.
    """

    quick: bool = False
    threads: int = 2
    images: str | None = None


Work = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a case.

    Attributes:
        name: what the table calls it.
        setup: everything that is not timed; returns what is.
        peers: whether it runs in the environment of the peers.
        share: the part of the work that it does (a very slow peer does less); its seconds are divided by it.
    """

    name: str
    setup: Callable[[Options], Work]
    peers: bool = True
    share: Callable[[Options], float] = lambda options: 1.0


@dataclass(frozen=True)
class Case:
    """A piece of work, ours, theirs, and what the machine allows.

    Attributes:
        name: its key in the table.
        ours: gradlab.
        peers: what it is compared with; none where only the time of ours counts.
        goal: what was to be reached, in words.
        ratio: the same as a ratio of times, for the picture.
        limit: work that no solution can leave out, timed as well.
        limit_is: what it is.
        same: largest relative difference of what ours and a peer return; None where they draw other noise.
        quick: whether ``make bench-quick`` runs it.
        once: whether it is timed once, after one run at the same size: a point of a curve that has others.
    """

    name: str
    ours: Contender
    peers: tuple[Contender, ...] = ()
    goal: str = ""
    ratio: float | None = None
    limit: Contender | None = None
    limit_is: str = ""
    same: float | None = None
    quick: bool = True
    once: bool = False


class Failed(Exception):
    """A contender that could not be set up or run; says why in one line."""


class Child:
    """One contender in a process of its own, asleep until it is told to go."""

    def __init__(self, python: str, source: Path, case: int, role: str, options: Options) -> None:
        threads = str(options.threads)
        env = os.environ | MALLOC | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"}
        command = [python, str(HERE / "child.py"), str(source), str(case), role, json.dumps(asdict(options))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        self.ready = self._answer()

    def go(self) -> float:
        """Seconds of one run."""
        return float(self._ask("go")["seconds"])

    def end(self) -> dict[str, Any]:
        """Ask for the peak of memory (MB) and the value, and let the process end."""
        answer = self._ask("end")
        self._process.wait(timeout=60)
        return answer

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the process died, likely for want of memory") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], TIMEOUT)
        if not heard:
            self.kill()
            raise Failed(f"no answer within {TIMEOUT} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the process died, likely for want of memory")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._process.wait(timeout=60)
            raise Failed(answer["error"])
        return answer


def load(source: Path) -> tuple[Case, ...]:
    """The cases of one file."""
    import importlib.util

    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    spec = importlib.util.spec_from_file_location(f"cases_{source.stem}", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    cases: tuple[Case, ...] = module.CASES
    return cases


def noise_alone(samples: int) -> Work:
    """That many uniform numbers by torch, in a chunk that stays in cache: what draws cost before any arithmetic."""
    import torch

    chunk = torch.empty(1 << 15)
    calls = samples // len(chunk)

    def work() -> None:
        for _ in range(calls):
            chunk.uniform_()

    return work
