"""Output folders to pack: runs with made-up weights, and studies."""

from __future__ import annotations

import os
import random
import time

import pandas as pd
import torch

from gradlab.runtime import checkpoints, digests, files


def model(out, run="run-1", kind="final", iteration=6, tensors=4, kb=100, seed=None, age=0, adam=False):
    """A run's folder as training leaves it, with weights of some size that depend on the iteration."""
    folder = files.ensure_folder(out / "runs" / run)
    draw = torch.Generator().manual_seed(iteration if seed is None else seed)
    state = {f"w{i}": torch.rand(kb * 256, generator=draw) for i in range(tensors)}
    state |= {"adam.exp_avg.w0": torch.rand(kb * 256, generator=draw)} if adam else {}
    files.write_json(folder / "settings.json", {"name": run})
    files.write_text(folder / "log.csv", "".join(f"{i},0.5\n" for i in range(iteration)))
    path = folder / f"{kind}.safetensors"
    checkpoints.save(path, state, "settings", iteration, {"log": [iteration]})
    if age:
        os.utime(path, (time.time() - age,) * 2)
    return path


def study(out, name="table1", rows=3, finished=True, parts=()):
    folder = files.ensure_folder(out / name)
    files.write_csv(folder / f"{name}.csv", pd.DataFrame({"x": range(rows)}))
    (folder / f"{name}.png").write_bytes(random.Random(rows).randbytes(20_000))
    for part in parts:
        files.write_text(files.ensure_folder(folder / "parts") / f"{part}.json", f'{{"rows": {rows}}}\n')
    if finished:
        record = {"study": name, "seed": 0, "wall_s": 1, "tables": [name], "rows": rows}
        files.write_json(folder / "provenance.json", digests.sealed(record))


def contents(folder, but=()):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".") and p.name not in but
    }


def names(made):
    return [f"{p.run}/{p.kind}" for p in made.sets]


def shards(folder):
    return sorted(folder.glob("weights-*.safetensors"))
