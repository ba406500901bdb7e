"""Files are whole or not there, tables come back as they were, and provenance says where numbers came from."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradlab.errors import GradlabError
from gradlab.runtime import files, provenance


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    lam: float = 0.1
    channels: tuple[int, ...] = (8, 12)
    seed: int = 0


@dataclass(frozen=True)
class Shuffled:
    seed: int = 0
    channels: tuple[int, ...] = (8, 12)
    lam: float = 0.1
    steps: int = 10


FRAME = pd.DataFrame(
    {
        "method": ["None", "NA", "a,b", 'say "ä"'],
        "x": [0.1 + 0.2, 1e-300, math.nan, -math.inf],
        "n": [1, 2, 3, 4],
        "ok": [True, False, True, True],
    }
)


def test_csv_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    files.write_csv(tmp_path / "a.csv", FRAME)
    pd.testing.assert_frame_equal(files.read_csv(tmp_path / "a.csv"), FRAME, check_exact=True)


def test_csv_of_many_random_floats_is_exact_and_deterministic(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**63, 5000).view(np.float64)
    frame = pd.DataFrame({"x": bits[np.isfinite(bits)]})
    for name in ("a.csv", "b.csv"):
        files.write_csv(tmp_path / name, frame)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (files.read_csv(tmp_path / "a.csv")["x"].to_numpy() == frame["x"].to_numpy()).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or empty"),
        (b"a,b\n1,2\n3,", "truncated"),
        (b"a,b\n1,2,3\n4,5,6,7\n", "not a table"),
        (b"\n", "not a table"),
        (b"a\n\xff\xfe\n", "not a table"),
    ],
)
def test_damaged_csv(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(GradlabError, match=rf"a\.csv.*{message}.*run its study again"):
        files.read_csv(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"cannot read .*gone\.csv .*run its study again"):
        files.read_csv(tmp_path / "gone.csv")
    with pytest.raises(GradlabError, match=r"cannot read .*gone\.json .*run its study again"):
        files.read_json(tmp_path / "gone.json")


@pytest.mark.parametrize("content", ["{", "[1]", "nonsense", pytest.param("[" * 100_000, id="nested")])
def test_damaged_json(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(GradlabError, match=r"a\.json .*delete it"):
        files.read_json(path)


def test_json_takes_paths_and_numpy(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"path": Path("x/y"), "n": np.int64(3), "f": np.float64(0.5)})
    assert files.read_json(tmp_path / "a.json") == {"path": "x/y", "n": 3, "f": 0.5}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GradlabError, match=r"cannot write to .*a\.txt \(No space left on device\): free space"):
        files.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_killed_writer_leaves_old_or_new(tmp_path: Path) -> None:
    """Kills a process that writes without end; whatever it was doing, the file is one of the two versions."""
    path = tmp_path / "a.bin"
    size = 1 << 20
    code = (
        "import sys; from gradlab.runtime import files\n"
        f"for i in range(10**9): files.write_bytes({str(path)!r}, bytes([i % 2]) * {size})\n"
    )
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code])
        while not path.exists() and process.poll() is None:
            pass
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        process.kill()
        process.wait()
        assert path.read_bytes() in (bytes(size), b"\1" * size)
        path.unlink()


def test_new_files_have_ordinary_permissions(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_ensure_folder(tmp_path: Path) -> None:
    made = files.ensure_folder(tmp_path / "a" / "b")
    assert made.is_dir() and not list(made.iterdir())
    files.ensure_folder(made)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(GradlabError, match=r"cannot write to .*file.*is a file; choose another folder"):
            files.ensure_folder(path)


def test_ensure_folder_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GradlabError, match=r"No space left on device.*: free space"):
        files.ensure_folder(tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_ensure_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(GradlabError, match="Permission denied"):
        files.ensure_folder(tmp_path / "a")


def test_settings_hash() -> None:
    assert provenance.settings_hash(Settings()) == provenance.settings_hash(Shuffled())
    # By hand: must not change, since it names runs on users' disks.
    text = b'{"channels":[8,12],"lam":0.1,"seed":0,"steps":10}'
    assert provenance.settings_hash(Settings()) == hashlib.sha256(text).hexdigest()[:12]
    assert provenance.settings_hash(Settings(lam=0.1 + 1e-18)) == provenance.settings_hash(Settings())
    for other in (Settings(steps=11), Settings(lam=0.1000001), Settings(channels=(8, 13)), Settings(seed=1)):
        assert provenance.settings_hash(other) != provenance.settings_hash(Settings())
    with pytest.raises(GradlabError, match=r"Settings cannot be hashed .*: use finite numbers"):
        provenance.settings_hash(Settings(lam=math.nan))


def test_provenance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/gradlab", "run", "a b"])
    record = provenance.provenance(Settings(), 7, "cpu", {"photographs": "abc"}, 1.23456, {"crop": "64"})
    assert record["command"] == "gradlab run 'a b'"  # no path of this machine
    assert record["settings"] == {"steps": 10, "lam": 0.1, "channels": [8, 12], "seed": 0}
    assert record["settings_hash"] == provenance.settings_hash(Settings())
    assert (record["seed"], record["device"], record["wall_s"]) == (7, "cpu", 1.235)
    assert record["inputs"] == {"photographs": "abc"} and record["assumed"] == {"crop": "64"}
    assert set(record["versions"]) == {"python", "torch", "numpy", "scipy", "pandas", "compressai"}
    assert record["versions"]["numpy"] == np.__version__
    assert record["time"].endswith("+00:00") and record["cpu"] and record["threads"] >= 1 and record["platform"]
    files.write_json(tmp_path / "p.json", record)
    assert files.read_json(tmp_path / "p.json") == record


def test_provenance_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "provenance.py").write_text("")
    git("init", "-q")
    git("commit", "-qm", "zero", "--allow-empty")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "provenance.py"))
    assert provenance.provenance(Settings(), 0, "cpu", {}, 0, {})["commit"] is None  # not tracked
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.csv").write_text("x")  # what runs write is no change of the code
    record = provenance.provenance(Settings(), 0, "cpu", {}, 0, {})
    assert (record["commit"], record["dirty"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "new.py").write_text("x")
    assert provenance.provenance(Settings(), 0, "cpu", {}, 0, {})["dirty"] is True
