"""Thousands of damaged files: does each end in a clear error or a correct result?

Every kind of file that gradlab reads is written once, damaged in a random way that the seed and the number of the trial
decide, and read again, in a process of its own whose address space is limited and whose clock is watched:

======== ===============================================================================================================
refused  ``GradlabError``: one sentence
same     the reader gave what it gives for the whole file: the damage was where nothing is read, or was repaired
other    the reader gave something else. Allowed of images and of CSVs without a record alone: those formats carry no
         checksum of their content (but PNG, which must not be here), so that nobody can know
======== ===============================================================================================================

and, each of which is a failure: ``wrong`` (something else from a file with a checksum), ``traceback`` (another
exception), ``hang`` (more than 20 seconds), ``memory`` (more than 2 GiB beyond what the process began with), ``crash``
(the process died).

    python tests/trials/fuzz.py --seconds 300 --seed 0
    python tests/trials/fuzz.py --kind png --trial 17        one trial again, with its traceback
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import gradlab as gl
from gradlab.data.prepare import prepare
from gradlab.errors import GradlabError
from gradlab.evaluation import container
from gradlab.runtime import checkpoints, digests, files, provenance
from gradlab.study import claims, report

ALARM, PATIENCE, START, MEMORY = 20, 90, 900, 2 << 30  # seconds of a trial, of a silent process, of its start; bytes
START_METHOD = "spawn"  # a fork would copy the locks of the threads that torch runs
GOOD = ("refused", "same", "other")
BAD = ("wrong", "traceback", "hang", "memory", "crash")
INTEGERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


@dataclass(frozen=True)
class Settings:
    """What decides a trial: its seed, kind and number."""

    seed: int
    seconds: float
    files: int


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        path: the file that is damaged, in a folder that is whole otherwise.
        read: reads it, or what it belongs to; gives something that can be compared with ``==``.
        checked: whether the format knows its own content, so that another result would be wrong.
        mend: puts a checksum right after the damage, as a forger would.
    """

    path: Path
    read: Callable[[], Any]
    checked: bool
    mend: Callable[[bytes], bytes] = lambda content: content


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file after one to three accidents."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        size = len(data)
        at = int(rng.integers(size)) if size else 0
        span = int(min(size - at, 2 ** rng.integers(0, 12)))
        match int(rng.integers(9)):
            case 0 if size:
                for _ in range(int(rng.integers(1, 9))):
                    data[int(rng.integers(size))] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at:]
            case 2:
                data += rng.bytes(int(2 ** rng.integers(0, 12)))
            case 3:
                del data[at : at + span]
            case 4:
                data[at:at] = data[at : at + span]
            case 5:
                data[at : at + span] = bytes(span)
            case 6:
                data[at : at + span] = rng.bytes(span)
            case 7:
                width, order = int(rng.choice([1, 2, 4, 8])), "little" if rng.integers(2) else "big"
                number = INTEGERS[int(rng.integers(len(INTEGERS)))] % 256**width
                data[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
            case _:
                other = int(rng.integers(size)) if size else 0
                data[at : at + span] = data[other : other + span]
    return bytes(data)


def corpus(folder: Path) -> dict[str, Kind]:
    """Whole files of every kind, below ``folder``."""
    from PIL import Image

    kinds: dict[str, Kind] = {}
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    for name in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm"):
        path = folder / f"image.{name}"
        Image.fromarray(noise).save(path, name.upper(), **({"exif": _turned()} if name in ("jpeg", "png") else {}))
        kinds[name] = Kind(path, lambda p=path: _same_tensor(gl.data.read_image(p)), name == "png")

    codec = gl.codecs.build("small-hyperprior", (6, 4), seed=1)
    codec.finish()
    codec.eval()
    path = folder / "weights.safetensors"
    checkpoints.save(path, codec.state_dict(), "abc", 7, {"log": [1.5]})

    def stored() -> Any:
        found = checkpoints.load(folder / "weights.safetensors", "abc")
        return checkpoints.digest(found.tensors), found.iteration, found.extra

    kinds["checkpoint"] = Kind(path, stored, True)
    path = folder / "weights.pth"
    torch.save({"state_dict": codec.state_dict()}, path)
    kinds["torch checkpoint"] = Kind(
        path, lambda: container.fingerprint(gl.codecs.load(folder / "weights.pth", "small-hyperprior")), True
    )

    path = folder / "image.glc"
    container.write(path, container.encode(codec, torch.from_numpy(noise).permute(2, 0, 1)))
    decode = Kind(path, lambda: _same_tensor(container.decode(codec, container.read(folder / "image.glc"))), True)
    kinds["bitstream"] = decode
    kinds["forged bitstream"] = decode._replace(checked=False, mend=_sealed)

    study = folder / "quick" / "table2"
    _study(study, noise)

    def page() -> Any:
        built = report.build(folder / "quick").read_bytes()
        return built, claims.ledger(folder / "quick")

    for file in ("table2.csv", "verdicts.csv", "provenance.json", "table2.png"):
        kinds[f"study: {file}"] = Kind(study / file, page, True)
    path = folder / "lone.csv"
    path.write_bytes((study / "table2.csv").read_bytes())
    kinds["lone csv"] = Kind(path, lambda: files.read_csv(folder / "lone.csv").to_dict("list"), False)

    source, target = folder / "photographs", folder / "prepared"
    source.mkdir()
    Image.fromarray(noise).save(source / "a.png")

    def again() -> Any:
        made = prepare(source, target, 1, workers=1)
        return made.manifest.to_dict("list"), sorted(p.name for p in target.iterdir()), _pixels(target)

    again()
    kinds["prepared: note"] = Kind(target / ".prepared.json", again, False)
    kinds["prepared: row"] = Kind(next(target.glob(".a-*.json")), again, True)
    kinds["prepared: image"] = Kind(next(target.glob("a-*.png")), again, True)
    kinds["prepared: manifest"] = Kind(target / "manifest.csv", again, True)
    return kinds


def _turned() -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _same_tensor(t: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(t.shape), t.contiguous().numpy().tobytes()


def _pixels(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(folder.glob("*.png"))]


def _sealed(content: bytes) -> bytes:
    body = content[: -container.CHECKSUM.size]
    import zlib

    return body + container.CHECKSUM.pack(zlib.crc32(body))


def _study(folder: Path, noise: np.ndarray) -> None:
    from PIL import Image

    files.ensure_folder(folder)
    rows = {"method": ["a", "b"] * 3, "bpp": np.linspace(0.1, 0.9, 6), "bpp_se": 0.01, "bpp_paper": 0.5, "k": range(6)}
    files.write_csv(folder / "table2.csv", pd.DataFrame(rows))
    said = [("a claim", "Table 2", "yes", "0.5 < 0.6"), ("another", "Section 3", "no", "it is not")]
    files.write_csv(folder / "verdicts.csv", pd.DataFrame(said, columns=["claim", "source", "holds", "evidence"]))
    Image.fromarray(noise).save(folder / "table2.png")
    record = {"study": "table2", "description": "A table.\n\nWords.", "tables": ["table2"], "seed": 0, "wall_s": 2.5}
    record |= {"profile": "quick", "settings": {"steps": 3}, "inputs": {"photographs": "abc"}, "commit": "c0ffee"}
    record |= {digests.FILES: digests.of_files(folder, ["table2.csv", "verdicts.csv"])}
    files.write_json(folder / "provenance.json", digests.sealed(record))


def trial(kind: Kind, expected: Any, rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """Outcome of one damaged file, and what was said; the file is whole again afterwards."""
    whole = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    kind.path.write_bytes(kind.mend(damage(whole[kind.path], rng)))
    signal.alarm(ALARM)
    try:
        found = kind.read()
        outcome = "same" if found == expected else "wrong" if kind.checked else "other"
        return outcome, "" if outcome != "wrong" else repr(found)[:200]
    except GradlabError as error:
        said = str(error)
        return ("refused" if 10 < len(said) < 1000 else "traceback"), said[:200]
    except TimeoutError:
        return "hang", traceback.format_exc(limit=-1)
    except MemoryError:
        return "memory", traceback.format_exc(limit=-3)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
        for path in folder.rglob("*"):
            if path.is_file() and path not in whole:
                path.unlink()
        for path, content in whole.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def generator(seed: int, kind: str, number: int) -> np.random.Generator:
    """The accidents of a trial depend on these alone."""
    return np.random.default_rng([seed, *kind.encode(), number])


def _alarmed(*_: Any) -> None:
    raise TimeoutError


@contextlib.contextmanager
def laboratory() -> Iterator[tuple[Path, dict[str, Kind], dict[str, Any]]]:
    """A folder with a whole file of every kind, and what reading each gives."""
    signal.signal(signal.SIGALRM, _alarmed)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = corpus(folder)
        yield folder, kinds, {name: kind.read() for name, kind in kinds.items()}


def _work(connection: Any, seed: int, start: int, seconds: float, files: int) -> None:
    """In a process of its own: trials ``start``, ``start + 1``, ... each announced, then told."""
    with laboratory() as (folder, kinds, expected):
        names = list(kinds)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
        connection.send((start, "", "", "", 0.0))
        number, deadline = start, time.monotonic() + seconds
        while number < files and time.monotonic() < deadline:
            name = names[number % len(names)]
            connection.send((number, name, "", "", 0.0))
            outcome, said = trial(kinds[name], expected[name], generator(seed, name, number), folder)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            connection.send((number, name, outcome, said, peak))
            number += 1
    connection.send(None)


def run(seed: int, seconds: float, files: int, say: Callable[[str], Any] = print) -> pd.DataFrame:
    """Outcomes by kind: ``kind files refused same other wrong traceback hang memory crash peak_mib``."""
    counts: dict[str, Counter[str]] = {}
    peaks: dict[str, float] = {}
    number, left, done = 0, seconds, False
    while not done and number < files and left > 0:
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context(START_METHOD).Process(
            target=_work, args=(theirs, seed, number, left, files), daemon=True
        )
        worker.start()
        theirs.close()
        name, begin = "", None
        while True:
            try:
                patience = START if begin is None else PATIENCE
                told = ours.recv() if ours.poll(patience) else (number, name, "hang", "", 0.0)
            except EOFError:  # it died in a trial
                told = (number, name, "crash", "", 0.0)
            if told is None:
                done = True
                break
            if begin is None:
                begin = time.monotonic()
            number, name, outcome, said, peak = told
            if not outcome:
                continue
            counts.setdefault(name, Counter())[outcome] += 1
            peaks[name] = max(peak, peaks.get(name, 0.0))
            number += 1
            if outcome in BAD:
                say(f"{outcome}: {name}, trial {number - 1}, seed {seed}\n{said}")
            if outcome == "crash" or (outcome == "hang" and not said):
                break
        left -= time.monotonic() - (begin or time.monotonic() - seconds)
        worker.kill()
        worker.join()
    rows = [
        {"kind": name, "files": c.total(), **{o: c[o] for o in (*GOOD, *BAD)}, "peak_mib": round(peaks[name])}
        for name, c in sorted(counts.items())
    ]
    return pd.DataFrame(rows, columns=["kind", "files", *GOOD, *BAD, "peak_mib"])


def main(arguments: list[str] | None = None) -> int:
    """Run, write ``fuzz.csv`` and its provenance; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--files", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("figures/reliability"))
    parser.add_argument("--kind", help="with --trial: one trial again")
    parser.add_argument("--trial", type=int)
    given = parser.parse_args(arguments)
    if given.kind is not None:
        with laboratory() as (folder, kinds, expected):
            rng = generator(given.seed, given.kind, given.trial)
            print(*trial(kinds[given.kind], expected[given.kind], rng, folder), sep="\n")
        return 0
    settings = Settings(given.seed, given.seconds, given.files)
    files.ensure_folder(given.out)
    record, begin = provenance.provenance(settings, given.seed, "cpu", {}, 0.0, {}), time.monotonic()
    table = run(given.seed, given.seconds, given.files)
    files.write_csv(given.out / "fuzz.csv", table)
    record["wall_s"] = round(time.monotonic() - begin, 3)
    files.write_json(given.out / "fuzz.provenance.json", record)
    print(table.to_string(index=False))
    failed = int(table[list(BAD)].to_numpy().sum())
    print(f"{int(table['files'].sum())} damaged files, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
