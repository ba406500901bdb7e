"""Record the origin of results: commit, settings, versions, device. Importing this module is fast."""

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
    """Return the command line of this process, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def version(package: str) -> str:
    """Return the version of a package, or ``UNKNOWN``; the version of gradlab is also known in a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        text = project.read_text("utf-8") if package == "gradlab" and project.is_file() else ""
        match = re.search(r'^name = "gradlab"\nversion = "([^"]+)"$', text, re.MULTILINE)
        return match[1] if match else UNKNOWN


def same_version(one: str | None, other: str | None) -> bool:
    """Return whether results of one version of gradlab are valid for another; an unknown version matches any."""
    return one == other or UNKNOWN in (one, other)


def settings_hash(settings: DataclassInstance) -> str:
    """Return twelve hex digits that depend on the names and values of the fields, but not on their order.

    Raises:
        GradlabError: a field is NaN or infinite, or JSON cannot represent it.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.runtime.provenance import settings_hash
        >>> settings_hash(gl.TrainSettings(lam=0.03)) == settings_hash(gl.TrainSettings(lam=0.015))
        False
    """
    try:
        text = json.dumps(
            dataclasses.asdict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain
        )
    except (TypeError, ValueError) as error:
        name = type(settings).__name__
        raise GradlabError(f"{name} cannot be hashed ({error}): use finite numbers, strings and tuples") from None
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
    """Return the origin of results, as stored in ``provenance.json``.

    Args:
        settings: frozen settings of the study.
        seed: seed that the user gave.
        device: device that was used, e.g. ``"cuda"``.
        inputs: fingerprint of each input, by name.
        wall_s: duration in seconds.
        assumed: choices that the paper leaves open.
        commit: commit of the code, for a copy outside git or of another commit; the state of git is recorded too.
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
    """Return the commit and whether the code differs from it; both None outside a checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here.parent, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may be inside another project's checkout
        # Runs write results under figures/, which does not change the code.
        changes = git("status", "--porcelain", "--", ":/", ":(exclude,top)figures")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def device_name(device: str) -> str:
    """Return the name of a device for provenance, e.g. ``"cuda:0 (NVIDIA H200)"``."""
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
    """Return the number of torch threads if torch is loaded, otherwise the number of available cores."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return cores()


def cores() -> int:
    """Return the number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
