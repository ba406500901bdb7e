"""A few hundred damaged files of every kind, and the driver itself; ``make fuzz`` runs thousands."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from gradlab.errors import GradlabError
from gradlab.runtime import files
from tests.trials import fuzz

FILES = 400
TRIAL = fuzz.trial


@pytest.fixture(scope="module")
def laboratory():
    with fuzz.laboratory() as found:
        yield found


def test_damaged_files_end_well(laboratory):
    folder, kinds, expected = laboratory
    names, found = list(kinds), []
    for number in range(FILES):
        name = names[number % len(names)]
        outcome, said = fuzz.trial(kinds[name], expected[name], fuzz.generator(1, name, number), folder)
        found.append(outcome)
        assert outcome in fuzz.GOOD, f"{name}, trial {number}: {outcome}\n{said}"
    assert found.count("refused") > FILES / 2


def test_every_whole_file_is_read_and_is_whole_again_after_a_trial(laboratory):
    folder, kinds, expected = laboratory
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name, kind in kinds.items():
        fuzz.trial(kind, expected[name], fuzz.generator(2, name, 0), folder)
        assert kind.read() == expected[name], name
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def ends(read, laboratory, checked=True):
    folder, kinds, _ = laboratory
    kind = fuzz.Kind(kinds["png"].path, read, checked)
    return fuzz.trial(kind, 1, fuzz.generator(0, "png", 0), folder)[0]


def raises(error):
    def read():
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        pytest.param(lambda: 1, "same", id="same"),
        pytest.param(lambda: 2, "wrong", id="wrong"),
        pytest.param(raises(GradlabError("a sentence that is long enough")), "refused", id="refused"),
        pytest.param(raises(GradlabError("")), "traceback", id="empty sentence"),
        pytest.param(raises(KeyError("x")), "traceback", id="another error"),
        pytest.param(raises(MemoryError()), "memory", id="out of memory"),
        pytest.param(raises(RecursionError()), "traceback", id="endless recursion"),
    ],
)
def test_outcomes(laboratory, read, outcome):
    assert ends(read, laboratory) == outcome


def test_what_knows_no_checksum_may_be_another(laboratory):
    assert ends(lambda: 2, laboratory, checked=False) == "other"


def test_a_hang_is_ended(laboratory, monkeypatch):
    monkeypatch.setattr(fuzz, "ALARM", 1)
    assert ends(lambda: time.sleep(60), laboratory) == "hang"


def test_damage_depends_on_seed_kind_and_trial_alone():
    content = bytes(range(256)) * 4
    made = [fuzz.damage(content, fuzz.generator(0, "png", n)) for n in range(200)]
    assert made == [fuzz.damage(content, fuzz.generator(0, "png", n)) for n in range(200)]
    assert len(set(made)) > 190 and made[0] != fuzz.damage(content, fuzz.generator(0, "gif", 0))
    assert min(map(len, made)) < 1024 < max(map(len, made))
    assert fuzz.damage(b"", np.random.default_rng(0)) is not None


@pytest.fixture
def forked(monkeypatch):
    """Workers that share what this process has loaded and patched."""
    monkeypatch.setattr(fuzz, "START_METHOD", "fork")


def test_the_command_counts_and_writes(forked, tmp_path, capsys):
    assert fuzz.main(["--seconds", "60", "--files", "25", "--out", str(tmp_path)]) == 0
    table = files.read_csv(tmp_path / "fuzz.csv")
    assert table["files"].sum() == 25 == table[["refused", "same", "other"]].to_numpy().sum()
    assert (tmp_path / "fuzz.provenance.json").exists()
    assert "25 damaged files, 0 failures" in capsys.readouterr().out


def test_a_process_that_dies_or_wants_all_memory_is_counted_and_the_run_goes_on(forked, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(64))
    calls = []

    def read(fatal):
        calls.append(0)
        if len(calls) > 2:  # the first two are of the whole files
            fatal()
        return 1

    kinds = {name: fuzz.Kind(tmp_path / "file", lambda f=f: read(f), True) for name, f in (
        ("deadly", lambda: os._exit(1)), ("greedy", lambda: bytearray(64 << 30)))}  # fmt: skip
    monkeypatch.setattr(fuzz, "corpus", lambda folder: kinds)
    monkeypatch.setattr(fuzz, "trial", lambda kind, expected, rng, folder: TRIAL(kind, expected, rng, tmp_path))
    said: list[str] = []
    table = fuzz.run(0, 60, 4, said.append).set_index("kind")
    assert table.loc["deadly", "crash"] == 2 and table.loc["greedy", "memory"] == 2
    assert len(said) == 4 and "trial 0" in said[0]
