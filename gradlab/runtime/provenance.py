"""Record where numbers come from: commit, settings, versions, device. This module imports nothing slow."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError
from gradlab.runtime.files import plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

UNKNOWN = "0+unknown"
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "compressai")


def command() -> str:
    """The command line of this process, without the folder that the program lies in."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def version(package: str) -> str:
    """The installed version of a package; of gradlab itself also that of a checkout; else ``UNKNOWN``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        text = project.read_text("utf-8") if package == "gradlab" and project.is_file() else ""
        found = re.search(r'^name = "gradlab"\nversion = "([^"]+)"$', text, re.MULTILINE)
        return found[1] if found else UNKNOWN


def same_version(one: str | None, other: str | None) -> bool:
    """Whether results of one version of gradlab count for another; that of a copy that was not installed is unknown."""
    return one == other or UNKNOWN in (one, other)


def settings_hash(settings: DataclassInstance) -> str:
    """Twelve hex digits that depend on the names and values of the fields alone, not on their order.

    Raises:
        GradlabError: a field that JSON cannot hold, or NaN.
    """
    try:
        text = json.dumps(
            dataclasses.asdict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain
        )
    except (TypeError, ValueError) as error:
        name = type(settings).__name__
        raise GradlabError(f"{name} cannot be hashed ({error}): use finite numbers, text and tuples of them") from None
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def provenance(
    settings: DataclassInstance,
    seed: int,
    device: str,
    inputs: Mapping[str, str],
    wall_s: float,
    assumed: Mapping[str, str],
    *,
    commit: str | None = None,
) -> dict[str, Any]:
    """Where numbers came from, as an object for ``provenance.json``.

    Args:
        settings: the frozen settings of the study.
        seed: the user's seed.
        device: where it ran, e.g. ``"cuda"``.
        inputs: name of each input to its fingerprint.
        wall_s: how long it took, seconds.
        assumed: what was chosen where the paper is silent.
        commit: of the code, for a copy of which git knows nothing, or another commit; what git says stands beside it.
    """
    git = _checkout()
    return {
        "gradlab": version("gradlab"),
        **(git if commit is None else {"commit": commit, "dirty": None, "git": git}),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "seed": seed,
        "settings_hash": settings_hash(settings),
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=plain)),
        "inputs": dict(inputs),
        "assumed": dict(assumed),
        "device": device_name(device),
        "cpu": _cpu(),
        "threads": _threads(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "wall_s": round(wall_s, 3),
    }


def _checkout() -> dict[str, Any]:
    """Commit, and whether the code differs from it; both None outside a checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here.parent, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside another project's checkout
        # Results under figures/ are what a run writes: they do not make the code another one.
        changes = git("status", "--porcelain", "--", ":/", ":(exclude,top)figures")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def device_name(device: str) -> str:
    """A device as provenance names it, e.g. ``"cuda:0 (NVIDIA H200)"``."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _threads() -> int:
    """Threads of torch where it is loaded, else the cores that this process may use."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return cores()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
