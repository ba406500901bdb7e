"""The runner: what it checks, writes, skips and says."""

from __future__ import annotations

import io
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from gradlab.errors import GradlabError
from gradlab.runtime import digests, files
from gradlab.runtime.progress import Progress, duration
from gradlab.study import Request, catalog, runner
from gradlab.training import RunOptions
from tests.processes import Process
from tests.study.fake_studies import studies

__all__ = ["studies"]  # a fixture


def run(*names: str, **options: Any) -> tuple[int, str]:
    console, out = Console(file=io.StringIO(), width=120), options.pop("out", None)
    training = {name: options.pop(name) for name in ("device", "resume") if name in options}
    request = Request(options=RunOptions(**training) if training else None, **options)
    code = runner.run(names, request, out, console=console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def test_discover_imports_nothing(studies: Path) -> None:
    (studies / "table10.py").write_text('"""Ten."""\nraise SystemExit("imported")\n')
    (studies / "table2.py").write_text("x = 1\n")
    found = catalog.studies()
    assert found == {
        "an-other": "Another, with a hyphen.",
        "table1": "A table <of> numbers.",
        "table2": "",
        "table10": "Ten.",
    }
    assert list(found)[1:] == ["table1", "table2", "table10"]


def test_a_study_that_does_not_parse(studies: Path) -> None:
    (studies / "table2.py").write_text("def\n")
    with pytest.raises(GradlabError, match=r"table2\.py cannot be parsed"):
        catalog.studies()


def test_a_run_writes_everything(studies: Path) -> None:
    code, said = run("table1", "an_other", out="out", seed=3)
    assert code == 0
    folder = Path("out/table1")
    main = files.read_csv(folder / "table1.csv")
    assert main["bpp"].tolist() == [3.5, 4.5, 5.5]  # the seed reached the settings
    assert (folder / "table1_more.csv").is_file() and Path("out/an-other/an-other.csv").is_file()
    assert (folder / "picture.txt").read_text() == "3.5"
    verdicts = files.read_csv(folder / "verdicts.csv")
    assert verdicts.columns.tolist() == ["claim", "source", "holds", "evidence"]
    assert verdicts["holds"].tolist() == ["no", "undecided"]
    record = files.read_json(folder / "provenance.json")
    assert record["inputs"] == {"photographs": "abc", "training images": "def"}
    assert set(record["folders"]) == {"train_images", "test_images"}
    assert all(len(fingerprint) == 12 for fingerprint in record["folders"].values())
    assert (record["seed"], record["profile"], record["study"], record["device"]) == (3, "quick", "table1", "cpu")
    assert record["tables"] == ["table1", "table1_more"] and record["assumed"] == {"crop": "64 pixels"}
    assert record["settings"] == {"rows": 3, "seed": 3} and record["description"].startswith("A table <of> numbers.")
    for words in (
        "table1 (1 of 2)",
        "an-other (2 of 2)",
        "[m0] <b>",
        "3.500 \u00b1 0.011",
        "0.4",
        "not here  bpp is < 1",
    ):
        assert words in said
    assert "undecided  MSE falls (Section 5): Not <measured>." in said and "gradlab report out" in said


def test_default_folder_and_profile(studies: Path) -> None:
    run("table1", profile="gpu", device="cpu")
    assert len(files.read_csv("figures/gpu/table1/table1.csv")) == 4


def test_settings_from_the_command_line_are_recorded_and_part_of_the_identity(studies: Path) -> None:
    code, said = run("table1", out="out", assignments=("rows=2",), commit="0123abc")
    assert code == 0 and len(files.read_csv("out/table1/table1.csv")) == 2
    record = files.read_json("out/table1/provenance.json")
    assert record["settings"] == {"rows": 2, "seed": 0}
    assert (record["commit"], record["dirty"]) == ("0123abc", None)  # whatever git says of this folder
    assert set(record["git"]) == {"commit", "dirty"} and record["set"] == ["rows=2"]
    run("table1", out="out", resume=True, assignments=("rows=2",))
    assert log() == "table1 "
    run("table1", out="out", resume=True)
    assert log() == "table1 table1 "
    code, said = run("table1", out="out", time_limit=1e-9, assignments=("rows=2",), commit="0123abc")
    assert "--commit 0123abc" in said and "--set rows=2" in said and said.rstrip().endswith("--resume")


def test_a_stay_decides_no_claim(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradlab_studies.table1 as module  # type: ignore[import-not-found,unused-ignore]

    monkeypatch.setitem(module.PROFILES, "stay", module.PROFILES["quick"])
    run("table1", profile="stay", device="cpu", out="out")
    verdicts = files.read_csv("out/table1/verdicts.csv")
    assert verdicts["holds"].tolist() == ["undecided", "undecided"] and verdicts["evidence"].notna().all()


def test_a_precision_that_is_given_twice_is_refused(studies: Path) -> None:
    text = (
        (studies / "table1.py")
        .read_text()
        .replace("    seed: int = 0\n", "    precision: str = 'tf32'\n    seed: int = 0\n")
    )
    (studies / "table2.py").write_text(text)
    with pytest.raises(GradlabError, match="given by both --precision and --set: give only one of the two"):
        run("table2", out="out", assignments=("precision=float32",), precision="float32")


def test_same_seed_same_bytes(studies: Path) -> None:
    for out in ("a", "b"):
        run("table1", out=out)
    for name in ("table1.csv", "table1_more.csv", "verdicts.csv"):
        assert Path("a/table1", name).read_bytes() == Path("b/table1", name).read_bytes()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {}, "no study is given: give some of an-other, table1"),
        (("table1", "tabel1"), {}, "unknown study 'tabel1': did you mean 'table1'"),
        (("table1",), {"profile": "quik"}, "unknown profile 'quik': did you mean 'quick'"),
        (("table1", "an-other"), {"profile": "gpu"}, "study an-other has no profile 'gpu': it has quick"),
        (("table1",), {"assignments": ("seed=3",)}, "table1: --set seed would be overwritten: give --seed instead"),
        (("table1",), {"assignments": ("base.data=x",)}, "unknown setting 'base'"),
        (
            ("table1",),
            {"assignments": ("rows=3",), "out": None},
            "--set changes the settings of profile quick: give another folder with --out",
        ),
        (("table1",), {"commit": "main"}, "the commit is 'main': give its hash, 7 hexadecimal digits or more"),
        (("table1",), {"commit": ""}, "the commit is '': give its hash"),
        (("table1",), {"assignments": ("row=3",)}, "table1: unknown setting 'row': did you mean 'rows'"),
        (("table1", "an-other"), {"assignments": ("rows=5",)}, "an-other: unknown setting 'rows': known are seed"),
        (("table1", "an-other"), {"assignments": ("rows=x",)}, "table1: --set rows is 'x': give a whole number"),
        (("table1",), {"seed": -1}, "the seed is -1: give a whole number"),
        (("table1",), {"seed": 2**63}, "give a whole number"),
        (("table1",), {"time_limit": 0.0}, "time limit is 0 minutes: give more than 0"),
        (("table1",), {"time_limit": float("nan")}, "give more than 0"),
        (("table1",), {"device": "cuda:63"}, r"no device 'cuda:63' here: give cpu"),
        (("table1",), {"device": "gpu"}, r"no device 'gpu' here: give cpu"),
        (("table1",), {"device": "meta"}, r"no device 'meta' here"),
        (("table1",), {"train_images": "gone"}, "--train-images: there is no folder gone"),
        (("table1",), {"test_images": "."}, "--test-images: there are no images in ."),
        (("table1",), {"test_images": "file"}, "--test-images: file is not a folder"),
        (("table1",), {"out": "file/below"}, "cannot write to file/below: .* is a file; choose another"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    studies: Path, names: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    Path("file").write_text("x")
    with pytest.raises(GradlabError, match=message):
        run(*names, **{"out": "out", **options})
    assert not list(Path().rglob("*.csv")) and not Path("out/log.txt").exists()


def test_a_study_that_breaks_the_contract(studies: Path) -> None:
    (studies / "table2.py").write_text("def measure(settings, context): ...\n")
    with pytest.raises(GradlabError, match=r"study table2 has no PROFILES: add it to .*table2\.py"):
        run("table2", out="out")
    text = (studies / "an_other.py").read_text().replace('"an-other":', '"wrong":')
    (studies / "table3.py").write_text(text)
    with pytest.raises(GradlabError, match=r"table3: measure\(\) returned no table 'table3'"):
        run("table3", out="out")


def log() -> str:
    return Path("out/log.txt").read_text()


def test_resume_skips_what_is_done(studies: Path) -> None:
    run("table1", out="out")
    before = Path("out/table1/provenance.json").read_bytes()
    code, said = run("table1", "an-other", out="out", resume=True)
    assert code == 0 and "already done" in said and log() == "table1 other "
    assert Path("out/table1/provenance.json").read_bytes() == before
    run("table1", out="out")  # without --resume it is measured again
    assert log() == "table1 other table1 "


@pytest.mark.parametrize("change", ["seed", "settings", "inputs", "version", "folder", "damaged", "csv", "absent"])
def test_resume_measures_again_what_is_not_the_same(
    studies: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("table1", out="out")
    path, options = Path("out/table1/provenance.json"), {}
    if change == "seed":
        options = {"seed": 1}
    elif change == "settings":
        import gradlab_studies.table1 as module  # type: ignore[import-not-found,unused-ignore]

        monkeypatch.setitem(module.PROFILES, "quick", module.Settings(rows=5))
    elif change == "inputs":
        (studies / "table1.txt").write_text("xyz")
    elif change == "version":
        record = files.read_json(path)
        files.write_json(path, digests.sealed(record | {"gradlab": "0.0.0"}))
    elif change == "folder":
        Path("images").mkdir()
        Image.new("RGB", (32, 32), "red").save("images/red.png")
        options = {"train_images": "images"}
    elif change == "damaged":
        path.write_text("{")
    elif change == "csv":
        Path("out/table1/table1_more.csv").unlink()
    elif change == "absent":
        path.unlink()
    run("table1", out="out", resume=True, **options)
    assert log() == "table1 table1 "


@pytest.mark.parametrize(
    ("behaviour", "code", "sentence"),
    [
        ("stop", 0, "stopped at the time limit; resume with: gradlab run table1 an-other --profile quick --out out"),
        ("interrupt", 130, "interrupted; finished work is kept; resume with: gradlab run table1 an-other"),
    ],
)
def test_orderly_ends(studies: Path, behaviour: str, code: int, sentence: str) -> None:
    Path("out").mkdir()
    Path("out/behaviour").write_text(behaviour)
    ended, said = run("table1", "an-other", out="out", seed=4, time_limit=9.0)
    last = said.strip().splitlines()[-1]
    assert ended == code and last.startswith(sentence) and last.endswith("--seed 4 --time-limit 9.0 --resume")
    assert Path("out/table1/provenance.json").is_file() and not Path("out/an-other/provenance.json").exists()


def test_a_failing_study_leaves_the_earlier_ones(studies: Path) -> None:
    Path("out").mkdir()
    Path("out/behaviour").write_text("error")
    with pytest.raises(GradlabError, match=r"^an-other: a sentence$"):
        run("table1", "an-other", out="out")
    assert Path("out/table1/provenance.json").is_file() and Path("out/table1/table1.csv").is_file()


def test_no_study_begins_after_the_deadline(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = run("table1", out="out", time_limit=1e-9)
    assert code == 0 and "stopped at the time limit" in said and not Path("out/log.txt").exists()


def test_results_without_their_provenance_are_never_shown_as_finished(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between the tables and the end leaves no provenance of the run before."""
    run("table1", out="out")

    def die(path: Path, frame: pd.DataFrame) -> None:
        raise GradlabError("disk full")

    monkeypatch.setattr(files, "write_csv", die)
    with pytest.raises(GradlabError, match="disk full"):
        run("table1", out="out")
    assert not Path("out/table1/provenance.json").exists()


def script(path: Path, *arguments: str) -> None:
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def test_a_study_file_is_a_script(studies: Path) -> None:
    arguments = ["--profile", "gpu", "--device", "cpu", "--out", "out"]
    assert Process(script, studies / "table1.py", *arguments, log=Path("log.txt")).wait(120) == 0, Path(
        "log.txt"
    ).read_text()
    assert len(files.read_csv("out/table1/table1.csv")) == 4


def test_quiet_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each tenth, none for what is fast, and the time left from the speed of this run alone."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    with Progress(console).track("train", 200, done=100) as advance:
        for _ in range(100):
            now[0] += 0.5
            advance(1, "loss [1]")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "  train: 120/200, 10 s, 40 s left, loss [1]"
    assert lines[-1] == "  train: 200/200 in 50 s, loss [1]" and len(lines) == 5


def test_quiet_progress_of_slow_steps_says_something_every_15_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    with Progress(console).track("train", 10_000) as advance:
        for _ in range(60):
            now[0] += 1
            advance()
    assert len(console.file.getvalue().splitlines()) == 5  # type: ignore[attr-defined]


def test_bar_in_a_terminal_and_nested_tasks() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    progress = Progress(console)
    with progress.track("outer [x]", 2) as outer, progress.track("inner", 3) as inner:
        inner(3, "note [y]")
        outer(2)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "outer [x]" in said and "inner" in said and "3/3" in said and "note [y]" in said
    with pytest.raises(RuntimeError), progress.track("again", 1):
        raise RuntimeError
    with progress.track("and again", 1) as advance:  # the bar of the failed one is gone
        advance()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_wide_tables_are_turned_or_cut(studies: Path) -> None:
    from gradlab.study.console import show_table

    console = Console(file=io.StringIO(), width=60)
    frame = pd.DataFrame({f"column{i}": [f"value{i}", "x"] for i in range(12)})
    show_table(console, frame, Path("a.csv"))
    turned = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"value{i}" in turned for i in range(12)) and "more columns" not in turned
    show_table(console, pd.concat([frame] * 30), Path("a.csv"))
    cut = console.file.getvalue()[len(turned) :]  # type: ignore[attr-defined]
    assert "value5" in cut and "value6" not in cut and "20 more rows and 6 more columns in a.csv" in cut


def test_catalog_reads_the_librarys_own_names() -> None:
    import gradlab

    assert set(catalog.estimators()) == set(gradlab.ESTIMATORS)
    assert set(catalog.objectives()) == set(gradlab.OBJECTIVES)
    assert all(catalog.estimators().values()) and all(catalog.objectives().values())


def test_resume_accepts_what_was_finished_elsewhere(studies: Path) -> None:
    """From a copy that was not installed, on another device, beside folders that the study does not read."""
    run("an-other", out="out")
    path = Path("out/an-other/provenance.json")
    there = {"gradlab": "0+unknown", "device": "cuda (NVIDIA H200)", "commit": None}
    files.write_json(path, digests.sealed(files.read_json(path) | there))
    Path("images").mkdir()
    Image.new("RGB", (32, 32), "red").save("images/red.png")
    _, said = run("an-other", out="out", resume=True, train_images="images")
    assert "already done" in said and Path("out/log.txt").read_text() == "other "
    _, said = run("an-other", out="out", resume=True, deterministic=True)
    assert "already done" not in said and Path("out/log.txt").read_text() == "other other "
    _, said = run("an-other", out="out", resume=True)  # what is deterministic does for a run that need not be
    assert "already done" in said
