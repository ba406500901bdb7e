"""Results on disk: whole files or none, and where they came from.

Every file is written beside its place and moved there, so that a process killed at any moment leaves the old file or
the new one, never half of one. Nothing slow is imported with this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab import ranks
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pandas import DataFrame

UNKNOWN = "0+unknown"
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "compressai")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a whole file or none: into a new file beside it, to the disk, then into place.

    Of several processes of one run (``gradlab.ranks``) the first writes.

    Raises:
        GradlabError: the disk or the folder refuses.
    """
    if not ranks.here().first:
        return
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def remove(path: str | Path) -> None:
    """Removes a file, if it is there.

    Raises:
        GradlabError: the folder refuses.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from None


def write_text(path: str | Path, content: str) -> None:
    """Writes text as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON, indented and with keys in the order given, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n")


def write_csv(path: str | Path, frame: DataFrame) -> None:
    """Writes rows without the index, floats with the digits that give the same float back: equal rows, equal bytes."""
    write_text(path, csv_of(frame))


def csv_of(frame: DataFrame) -> str:
    """The text that ``write_csv`` writes."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path) -> DataFrame:
    """The rows that ``write_csv`` wrote; only an empty cell is missing, so that a method may be called "None".

    Raises:
        GradlabError: no such file, cut off, or not a table.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    return rows_of(content, path)


def rows_of(content: bytes, path: Path | str) -> DataFrame:
    """The rows that ``csv_of`` gave the text of; ``path`` is named in errors.

    Raises:
        GradlabError: cut off, or not a table.
    """
    import pandas

    remedy = "run its study again"
    if not content.endswith(b"\n"):
        raise GradlabError(f"{path} is cut off or empty: {remedy}")
    try:
        return pandas.read_csv(
            io.BytesIO(content), float_precision="round_trip", keep_default_na=False, na_values=[""], encoding="utf-8"
        )
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise GradlabError(f"{path} is not a table ({str(error).strip()}): {remedy}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """The object that ``write_json`` wrote.

    Raises:
        GradlabError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GradlabError(f"{path} is not JSON ({error}): delete it and run its study again") from None
    if not isinstance(content, dict):
        raise GradlabError(f"{path} holds no JSON object: delete it and run its study again")
    return content


def ensure_folder(path: str | Path) -> Path:
    """Makes the folder, with its parents, and makes sure by a small file that it can be written to.

    Raises:
        GradlabError: it cannot be made or written to; names the folder and what to do.
    """
    path = Path(path)
    if not ranks.here().first:
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from None
    probe = path / f".{secrets.token_hex(4)}.tmp"
    try:
        # A page, to the disk: a full disk takes an empty file, and the superuser passes every check of permissions.
        with open(probe, "xb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return path


def refusal(path: Path, error: OSError) -> GradlabError:
    """What to say where the disk or the folder refuses to take ``path``."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return GradlabError(f"cannot write to {path}: it, or a part of it, is a file; choose another folder")
    reason = error.strerror or type(error).__name__
    return GradlabError(f"cannot write to {path} ({reason}): free space, change permissions or choose another folder")


def command() -> str:
    """The command line of this process, without the folder that the program lies in."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def version(package: str) -> str:
    """The installed version of a package; of gradlab itself also that of a checkout; else ``UNKNOWN``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
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
            dataclasses.asdict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
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
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=_plain)),
        "inputs": dict(inputs),
        "assumed": dict(assumed),
        "device": device_name(device),
        "cpu": _cpu(),
        "threads": _threads(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "wall_s": round(wall_s, 3),
    }


def _plain(value: object) -> Any:
    """What JSON has no word for: paths, and numbers of numpy."""
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


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
