"""Kills ``gradlab run`` and ``gradlab report`` at random moments, resumes, and compares with a run that nobody killed.

    python tests/trials/faults.py --trials 60 --out figures/reliability/kills

Table 1 at its smallest is trained, coded, drawn and reported in a process of its own, which SIGKILL ends: in every
other trial after a random time, in the others within the n-th file that it writes (half of it written; written but not
on the disk; on the disk but not in place; in place). Every third trial is killed twice. After each kill whatever has
its final name must be whole; after ``--resume`` every file must be that of the undisturbed run, byte for byte,
save for the wall times in the provenance and on the page. Fails (exit code 1) if one is not.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a process with a pool of threads cannot be forked

import pandas as pd
from PIL import Image

from gradlab import cli, data
from gradlab.runtime import checkpoints, files, provenance
from gradlab.study import plotstyle, report
from gradlab.training.engines import _task
from gradlab_studies import table1

OUTSIDE = "between the parts"  # of the study: reading images, tables and provenance
MOMENTS = ("half written", "written, not on disk", "on disk, not in place", "in place")
HIDDEN = re.compile(r"\.lock|\.lock-holder\.json|\..*\.[0-9a-f]{8}\.tmp")
# With them the digest of the record that holds them.
WALL_TIMES = re.compile(rb'"time": "[^"]*"|"wall_s": [0-9.]+|"digest": "[0-9a-f]*"|<dt>(took|begun)</dt><dd>[^<]*</dd>')
SIDE = 128  # pixels of the images: what the codec is trained on and codes


@dataclass(frozen=True)
class Settings:
    """How many trials, and the seed of their moments."""

    trials: int
    seed: int


class Kill(NamedTuple):
    """When to kill: after so many seconds, or within the write of that number (from 1) at that moment."""

    after: float | None = None
    write: int = 0
    moment: str = ""


NEVER = Kill()


class Child(NamedTuple):
    """How a process ended: its exit code (None: killed), what it was doing, how many files it had begun, seconds."""

    code: int | None
    doing: str
    writes: int
    seconds: float


def instrument(note: Callable[[str, int], None], kill: Kill) -> None:
    """Lets the process say what it does, and kills it within a write; for the child alone, whose end undoes it."""
    state = {"doing": OUTSIDE, "writes": 0, "armed": ""}

    def say(doing: str) -> None:
        state["doing"] = doing
        note(doing, state["writes"])

    def during(module: Any, name: str, doing: str) -> None:
        function = getattr(module, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            before = state["doing"]
            say(doing)
            try:
                return function(*arguments, **options)
            finally:
                say(before)

        wrapped.__wrapped__ = function
        setattr(module, name, wrapped)

    def dead(moment: str) -> None:
        if state["armed"] == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    write_bytes, fsync, rename = files.write_bytes, os.fsync, os.replace

    class Halved:
        def __init__(self, *arguments: Any) -> None:
            self.file = open(*arguments, buffering=0)  # noqa: SIM115

        def __enter__(self) -> Halved:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            dead(MOMENTS[0])
            self.file.write(content[len(content) // 2 :])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def counted(path: str | Path, content: bytes) -> None:
        before = state["doing"]
        state["writes"] += 1
        state["armed"] = kill.moment if state["writes"] == kill.write else ""
        say(f"{before}, writing {Path(path).name}")
        write_bytes(path, content)
        state["armed"] = ""
        say(before)

    def synced(descriptor: int) -> None:
        dead(MOMENTS[1])
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        dead(MOMENTS[2])
        rename(source, target)
        dead(MOMENTS[3])

    files.write_bytes, os.fsync, os.replace = counted, synced, renamed
    files.open = Halved  # found before the builtin
    during(table1, "measure", "evaluating")
    # Several checkpoints of each model, as a long run has them.
    training = _task.training
    _task.training = lambda *arguments: training(*arguments[:-1], replace(arguments[-1], checkpoint_seconds=0))
    during(_task, "training", "training")
    during(table1, "draw", "drawing")
    during(report, "build", "making the report")


def run(root: Path, out: Path, kill: Kill = NEVER, resume: bool = False) -> Child:
    """Runs the study and the report in a process of its own, which ends or is killed."""
    shared = mmap.mmap(-1, 4096)

    def note(doing: str, writes: int) -> None:
        text = f"{writes} {doing}".encode()
        shared[: len(text) + 1] = text + b"\n"

    note(OUTSIDE, 0)
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            log = os.open(root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            instrument(note, kill)
            images = ["--train-images", str(root / "train"), "--test-images", str(root / "test")]
            code = cli.main(["run", "table1", "--out", str(out), *images, *(["--resume"] if resume else [])])
            code = code or cli.main(["report", str(out)])
        except BaseException:
            traceback.print_exc()  # nobody above catches it: this is a fork
        finally:
            os._exit(code)
    status = 0
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if kill.after is not None and time.monotonic() - begin > kill.after:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    status = ended[1]
    writes, _, doing = shared[:].partition(b"\n")[0].decode().partition(" ")
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return Child(code, doing, int(writes), time.monotonic() - begin)


def contents(out: Path) -> dict[str, bytes]:
    """Every file below, but for locks and what writers leave beside its place; wall times taken out."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and not HIDDEN.fullmatch(path.name)):
        content = path.read_bytes()
        if path.suffix in (".html", ".json"):
            content = WALL_TIMES.sub(b"", content)
        found[path.relative_to(out).as_posix()] = content
    return found


def damage(out: Path, reference: dict[str, bytes]) -> tuple[str, int, int]:
    """What is wrong with the files of a run that was killed ("" for nothing), how many there are, how many beside."""
    beside = sum(1 for path in out.rglob(".*.tmp"))
    try:
        found = contents(out)
        for name, content in found.items():
            path = out / name
            if path.name == "last.safetensors":  # gone in the end; its digest says whether it is whole
                checkpoints.load(path, path.parent.name.rpartition("-")[2])
            elif path.name == "state.json":  # of a run that goes on: whole, and gone in the end
                files.read_json(path)
            elif path.name == "log.csv":
                files.read_csv(path)
                if not reference[name].startswith(content):
                    return f"{name} is none of an undisturbed run", len(found), beside
            elif path.name == "weights.json":  # grows by a line for each file of weights
                if not files.read_json(path).items() <= json.loads(reference[name]).items():
                    return f"{name} notes other weights", len(found), beside
            elif reference.get(name) != content:
                return f"{name} differs or is half-written", len(found), beside
    except Exception as error:
        return f"{type(error).__name__}: {error}", 0, beside
    return "", len(found), beside


def different(out: Path, reference: dict[str, bytes]) -> str:
    """In what the resumed run differs from the undisturbed one; "" for nothing."""
    found = contents(out)
    names = sorted(name for name in {*found, *reference} if found.get(name) != reference.get(name))
    names += [f"{path.name} is left over" for path in out.rglob(".*.tmp")]
    return ", ".join(names)


def trial(index: int, seed: int, root: Path, reference: dict[str, bytes], quiet: Child) -> dict[str, Any]:
    """One row: kill (every third trial twice), look, resume, compare."""
    chance = random.Random(f"{seed}/kill/{index}")
    out = root / f"trial-{index}" / "out"  # the page has the name of its folder
    moments, doing, wrong, checked, beside = [], [], "", 0, 0
    for again in range(2 if index % 3 == 2 else 1):
        if index % 2 == 0:
            kill = Kill(after=chance.uniform(0, 0.9 * quiet.seconds))
        else:
            kill = Kill(write=chance.randint(1, quiet.writes), moment=chance.choice(MOMENTS))
        ended = run(root, out, kill, resume=again > 0)
        said = f"after {kill.after:.2f} s" if kill.after is not None else f"write {kill.write}: {kill.moment}"
        moments.append(said if ended.code is None else f"{said} (was done before)")
        doing.append(ended.doing)
        worse, seen, left = damage(out, reference)
        wrong, checked, beside = wrong or worse, checked + seen, beside + left
    resumed = run(root, out, resume=True)
    if resumed.code != 0:
        wrong = wrong or f"the resumed run ended with code {resumed.code}"
    wrong = wrong or different(out, reference)
    killed = sum("done before" not in moment for moment in moments)
    return {
        "trial": index,
        "kills": killed,
        "moment": "; ".join(moments),
        "doing": "; ".join(doing),
        "files_checked": checked + len(reference),
        "unfinished_beside": beside,
        "outcome": wrong or "as undisturbed",
    }


def main() -> int:
    """Runs the trials; writes ``kills.csv`` and ``provenance.json``."""
    parser = argparse.ArgumentParser(description="Kill runs, resume them, compare.")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("figures/reliability/kills"))
    asked = parser.parse_args()
    settings, begin = Settings(asked.trials, asked.seed), time.monotonic()
    record = provenance.provenance(settings, asked.seed, "cpu", {}, 0.0, {})
    base = replace(table1.SMALLEST.base, channels=(4, 6), crop=32, snapshots=(2, 4))
    table1.PROFILES["quick"] = replace(table1.SMALLEST, base=base)
    plotstyle.STYLE["savefig.dpi"] = 60
    # In memory where there is such a folder: what a process has written outlives its SIGKILL on any disk.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        root = Path(folder)
        for purpose in ("train", "test"):
            (root / purpose).mkdir()
            for picture in data.load(None, purpose, 1)[:2]:
                pixels = picture.pixels[:, :SIDE, :SIDE].permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(root / purpose / f"{Path(picture.name).stem}.png")
        quiet = run(root, root / "undisturbed" / "out")
        if quiet.code != 0:
            sys.stderr.write((root / "log.txt").read_text())
            return 1
        reference = contents(root / "undisturbed" / "out")
        rows = []
        for index in range(settings.trials):
            rows.append(trial(index, settings.seed, root, reference, quiet))
            print(*rows[-1].values(), sep=" | ", flush=True)
    table = pd.DataFrame(rows)
    failed = int((table["outcome"] != "as undisturbed").sum())
    files.ensure_folder(asked.out)
    files.write_csv(asked.out / "kills.csv", table)
    record |= {"wall_s": round(time.monotonic() - begin, 3), "files of a run": len(reference), "failed": failed}
    files.write_json(asked.out / "provenance.json", record)
    kills, checked = table["kills"].sum(), table["files_checked"].sum()
    print(f"{len(table)} trials, {kills} kills, {checked} files checked, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
