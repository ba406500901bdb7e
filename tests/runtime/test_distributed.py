"""Two processes on the CPU (gloo, by torchrun) against one: the same noise by sample index, the same numbers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch

from gradlab import noise, training
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, distributed, files
from tests.processes import Process
from tests.runtime import distributed_cases as cases

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def torchrun(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Two processes that speak over 127.0.0.1 alone."""
    rendezvous = ["--nnodes", "1", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
                  "--local-addr", "127.0.0.1"]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *rendezvous, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = torchrun("-m", "tests.runtime.distributed_cases", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "said.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cases.main(folder)
    torch.set_num_threads(threads)
    return folder


def tensors(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(str(folder / f"tensors-{rank}.safetensors"))


@pytest.mark.parametrize("case", [*cases.CASES, "record"])
def test_float64_agrees_with_one_process(one: Path, two: Path, case: str) -> None:
    alone, first, second = (
        {n: t for n, t in tensors(*at).items() if n.startswith(f"{case}/")} for at in ((one,), (two, 0), (two, 1))
    )
    assert alone.keys() == first.keys() == second.keys()
    assert sum("grad." in n or "mean." in n for n in alone) > 8
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), f"the processes differ in {name}"
        # Adam divides a gradient by its own size: where that is next to nothing, it enlarges what the order of sums left.
        tolerance = 1e-6 if "weight." in name else 1e-10
        assert torch.allclose(first[name].double(), value.double(), rtol=1e-9, atol=tolerance), name


def test_a_run_is_that_of_one_process(one: Path, two: Path) -> None:
    run = training.run_of(cases.TINY.on(cases.pictures()), Path("whole"))
    for file in ("final.safetensors", "snapshot-2.safetensors"):
        a, b = (checkpoints.load(at / run.folder / file).tensors for at in (one, two))
        assert a.keys() == b.keys()
        for name in a:
            if not name.endswith(("quantiles", "_cdf", "_offset", "_cdf_length")):
                assert torch.allclose(a[name], b[name], rtol=1e-4, atol=2e-5), name
    logs = [files.read_csv(at / run.folder / "log.csv") for at in (one, two)]
    pd.testing.assert_frame_equal(*logs, rtol=1e-4)
    assert sorted(p.name for p in (two / run.folder).iterdir()) == sorted(p.name for p in (one / run.folder).iterdir())


def test_all_stop_when_the_time_is_up_for_one_and_resume_to_the_same_bits(two: Path) -> None:
    for rank in (0, 1):
        said = json.loads((two / f"sentences-{rank}.json").read_text())
        assert said["stopped"] == "stopped at the time limit after iteration 1 of 5" and said["iteration"] == 1
    run = training.run_of(cases.TINY.on(cases.pictures()), Path())
    a, b = (checkpoints.load(two / at / run.folder / "final.safetensors").tensors for at in ("whole", "stopped"))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_what_breaks_in_one_process_breaks_in_all(two: Path) -> None:
    for rank in (0, 1):
        said = json.loads((two / f"sentences-{rank}.json").read_text())
        assert (
            said["odd"] == "a batch of 3 cannot be split over 2 processes: start a number of processes that divides 3"
        )
        assert said["share"] == "item b broke"


@pytest.mark.parametrize("table", ["coded", "universal"])
def test_evaluation_is_that_of_one_process(one: Path, two: Path, table: str) -> None:
    alone, shared = (files.read_csv(at / f"{table}.csv") for at in (one, two))
    assert alone["image"].tolist() == shared["image"].tolist() == list(range(5))
    pd.testing.assert_frame_equal(alone, shared, rtol=1e-6)


def test_the_command_line_needs_no_change(one: Path, two: Path) -> None:
    # The digest of the weights is in the name of what was evaluated of them.
    digest = re.compile(r"-[0-9a-f]{12}\.json")
    listed = [
        sorted(digest.sub("", str(p.relative_to(at / "out"))) for p in (at / "out").rglob("*")) for at in (one, two)
    ]
    assert listed[0] == listed[1] and "table11/provenance.json" in listed[0]
    tables = [files.read_csv(at / "out" / "table11" / "table11.csv") for at in (one, two)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3)
    said = (two / "said.txt").read_text()
    assert said.count("table11 (1 of 1)") == said.count("results are in") == 1  # the other process is silent


def speak() -> None:
    with distributed.initialized("cpu") as group:
        late = "by SIGTERM" if group.rank else None
        print(group.all_gather(group.rank), group.any(group.rank == 1), group.coalesce(late))


def test_srun_starts_it_as_well(tmp_path: Path) -> None:
    """The variables that SLURM's srun sets for two processes on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "bash",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # fmt: skip
    processes = [
        Process(speak, log=tmp_path / rank, environment=step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in ("0", "1")
    ]
    assert [process.wait(200) for process in processes] == [0, 0]
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text().splitlines()[-1] == "[0, 1] True by SIGTERM"


def test_rows_of_the_noise() -> None:
    whole = noise.uniform((6, 3), noise.stream(1, "a", 2))
    parts = [noise.uniform((2, 3), noise.stream(1, "a", 2, part=(rank, 3))) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    generators = [noise.stream(1, "a", 2, part=part) for part in ((0, 1), (1, 2))]
    for generator in generators:  # the second tensor of a draw continues the same stream
        noise.normal((4 // getattr(generator, "ranks", 1), 2), generator)
    whole, part = (noise.normal((n, 2), g) for n, g in zip((4, 2), generators, strict=True))
    assert torch.equal(part, whole[2:])


@pytest.mark.parametrize(("device", "environment", "match"), [
    ("mps", {}, "2 processes cannot use device 'mps': give --device cpu or cuda"),
    ("cuda:1", {}, "2 processes cannot share 'cuda:1': give --device cuda"),
    ("cpu", {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_ID": "0"}, "--ntasks-per-node"),
])  # fmt: skip
def test_what_cannot_be_shared(
    monkeypatch: pytest.MonkeyPatch, device: str, environment: dict[str, str], match: str
) -> None:
    elastic = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (environment or elastic).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GradlabError, match=match), distributed.initialized(device):
        pass
    assert distributed.group() is distributed.SINGLE


def test_alone_nothing_is_imported() -> None:
    program = (
        "import sys\nfrom gradlab.runtime import distributed\n"
        "with distributed.initialized('cpu') as group:\n    assert group.any(True) and group.broadcast(3) == 3 and group.mean({'a': 1.0})\n"
        "    group.barrier()\nsys.exit('torch' in sys.modules or 'lightning_fabric' in sys.modules)"
    )
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("SLURM_", "TORCHELASTIC"))}
    # A batch script of SLURM's that starts one process: SLURM_NTASKS is set, but srun did not start it.
    subprocess.run([sys.executable, "-c", program], check=True, env=environment | {"SLURM_NTASKS": "4"})
