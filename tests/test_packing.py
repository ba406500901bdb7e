"""Weights that travel in shards: nothing lost, nothing damaged, and a warm restart that says what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradlab import checkpoints, cli, data, results, training
from gradlab.errors import GradlabError, Stopped
from gradlab.training import RunOptions
from gradlab.training.packing import pack, unpack
from gradlab.training.state import RESTART
from gradlab_studies import _models as models

SETTINGS = replace(models.SMALLEST, data="")


@pytest.fixture(scope="module")
def pictures():
    return data.load(None, "train", SETTINGS.crop)


@pytest.fixture
def finished(tmp_path, pictures):
    out = tmp_path / "out"
    run = training.train(SETTINGS, pictures, out / "runs", RunOptions(checkpoint_seconds=0))
    return out, run


def stop_after(pictures, runs, iterations, settings=SETTINGS, **options):
    """A run that a time limit ends after so many iterations."""
    seen = 0

    def advance(n=1, note=""):
        nonlocal seen
        seen += n

    class Deadline(float):
        def __lt__(self, other):  # time.monotonic() > deadline, which is asked before an iteration is counted
            return seen >= iterations - 1

    with pytest.raises(Stopped):
        training.train(settings, pictures, runs, RunOptions(deadline=Deadline(0), progress=advance, **options))


def test_weights_come_back_bit_for_bit(finished, tmp_path):
    out, run = finished
    packed = pack(out, tmp_path / "pack", limit_mb=0.9, snapshots=(2, 4))
    shards = sorted((tmp_path / "pack").glob("*.safetensors"))
    assert len(shards) > 1 and all(shard.stat().st_size <= 0.9 * 2**20 for shard in shards)
    assert [p.kind for p in packed] == ["final", "snapshot-2", "snapshot-4"]
    assert unpack(tmp_path / "pack", tmp_path / "there") == packed
    for kind in ("final", "snapshot-2", "snapshot-4"):
        before, after = (
            checkpoints.load(folder / "runs" / run.folder.name / f"{kind}.safetensors")
            for folder in (out, tmp_path / "there")
        )
        assert before.tensors.keys() == after.tensors.keys()
        assert all(torch.equal(before.tensors[n], after.tensors[n]) for n in before.tensors)
        assert before[1:] == after[1:]


def test_a_finished_run_is_not_trained_again(finished, tmp_path, pictures):
    out, run = finished
    pack(out, tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path / "there")
    notes = []
    training.train(
        SETTINGS, pictures, tmp_path / "there" / "runs", RunOptions(progress=lambda n=1, note="": notes.append(note))
    )
    assert notes == ["already trained"]
    assert (tmp_path / "there" / "runs" / run.folder.name / "log.csv").read_bytes() == (
        run.folder / "log.csv"
    ).read_bytes()


def test_with_the_optimizer_an_unfinished_run_goes_on_to_the_same_numbers(finished, tmp_path, pictures):
    _, undisturbed = finished
    stop_after(pictures, tmp_path / "cut" / "runs", 3)
    (entry,) = pack(tmp_path / "cut", tmp_path / "pack", optimizer=True)
    assert (entry.kind, entry.iteration, entry.optimizer) == ("last", 3, True)
    unpack(tmp_path / "pack", tmp_path / "there")
    run = training.train(SETTINGS, pictures, tmp_path / "there" / "runs", RunOptions(resume=True))
    assert run.warm_restarts == ()
    one, two = (checkpoints.load(r.folder / "final.safetensors").tensors for r in (undisturbed, run))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_without_it_the_restart_is_warm_and_says_so(tmp_path, pictures):
    stop_after(pictures, tmp_path / "cut" / "runs", 3)
    (entry,) = pack(tmp_path / "cut", tmp_path / "pack")
    assert not entry.optimizer
    unpack(tmp_path / "pack", tmp_path / "there")
    runs = tmp_path / "there" / "runs"
    stop_after(pictures, runs, 5, resume=True)  # seen: 3 resumed, 2 trained
    run = training.train(SETTINGS, pictures, runs, RunOptions(resume=True, log_every=1))  # a resume with its optimizer
    assert run.warm_restarts == (3,)
    log = results.read_csv(run.folder / "log.csv")
    warm = log.loc[log["iteration"] == 6, "learning_rate"].item()
    assert warm == pytest.approx(SETTINGS.rate_at(5) * 3 / RESTART)


def test_the_learning_rate_rises_after_a_warm_restart_only():
    state = training.TrainState.new(SETTINGS)
    for iteration, restarts, factor in ((0, [], 1), (10**6, [3], 1), (10, [0, 10], 1 / RESTART)):
        state.iteration, state.restarts = iteration, restarts
        assert state.set_rate() == pytest.approx(factor * SETTINGS.rate_at(iteration))
        assert float(state.optimizer.param_groups[0]["lr"]) == state.set_rate()


def test_what_is_there_stays(finished, tmp_path):
    out, run = finished
    pack(out, tmp_path / "pack")
    before = (run.folder / "final.safetensors").stat().st_mtime_ns
    assert unpack(tmp_path / "pack", out) == []
    assert (run.folder / "final.safetensors").stat().st_mtime_ns == before


def test_bad_input(finished, tmp_path):
    out, _ = finished
    with pytest.raises(GradlabError, match="holds no trained weights"):
        pack(tmp_path / "nothing", tmp_path / "a")
    with pytest.raises(GradlabError, match=r"alone has .* MB: raise the limit of 0\.001 MB"):
        pack(out, tmp_path / "b", limit_mb=0.001)
    with pytest.raises(GradlabError, match=r"the limit is 0 MB"):
        pack(out, tmp_path / "b", limit_mb=0)
    pack(out, tmp_path / "c", limit_mb=0.9, snapshots=(2, 4))
    with pytest.raises(GradlabError, match="is not empty: pack into a new folder"):
        pack(out, tmp_path / "c")
    with pytest.raises(GradlabError, match=r"holds no weights-\*\.safetensors"):
        unpack(tmp_path / "nothing", out)
    victim = sorted((tmp_path / "c").glob("*.safetensors"))[-1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(GradlabError, match="is corrupt"):
        unpack(tmp_path / "c", tmp_path / "there")
    victim.unlink()
    with pytest.raises(GradlabError, match=r"lacks shards \[\d+\] of"):
        unpack(tmp_path / "c", tmp_path / "there")


def test_a_pack_writes_below_its_folder_only(finished, tmp_path):
    out, run = finished
    pack(out, tmp_path / "pack")
    (shard,) = (tmp_path / "pack").glob("*.safetensors")
    stored = checkpoints.load(shard)
    name = f"{run.folder.name}/final"
    manifest = {"../../evil": stored.extra["manifest"][name]}
    checkpoints.save(shard, stored.tensors, "pack", 1, {"of": 1, "manifest": manifest})
    with pytest.raises(GradlabError, match=r"names a run '\.\./\.\./evil', which is no plain name"):
        unpack(tmp_path / "pack", tmp_path / "there")


def test_on_the_command_line(finished, tmp_path, capsys):
    out, _ = finished
    assert cli.main(["pack", str(out), str(tmp_path / "pack")]) == 0
    assert cli.main(["unpack", str(tmp_path / "pack"), str(tmp_path / "there")]) == 0
    assert "1 sets of weights are in" in capsys.readouterr().out
    assert len(results.read_csv(tmp_path / "pack" / "weights.csv")) == 1
    assert cli.main(["unpack", str(tmp_path), str(out)]) == 2
