"""Parts of a study: kept whole, read only where they are of the same things, gone when the study is complete."""

from __future__ import annotations

import functools
import io
import json
import math

import pandas as pd
import pytest
from rich.console import Console

from gradlab.errors import Stopped
from gradlab.runtime import digests, provenance, signals
from gradlab.runtime.progress import Progress
from gradlab.study import Context
from gradlab.study.pieces import Parts, Piece, joined
from gradlab.training import RunOptions

ROWS = pd.DataFrame({"group": ["None", "z"], "snr": [1 / 3, math.nan], "own": [True, False], "draws": [32, 32]})
TABLES = {"table": ROWS, "more": ROWS.head(1)}
KEY = {"weights": "ab", "iteration": 6, "deterministic": False}


def test_a_part_comes_back_as_it_was(tmp_path):
    parts = Parts(tmp_path, {"device": "cpu"})
    assert parts.find("one", KEY) is None
    kept = parts.keep("one", KEY, TABLES)
    assert list(kept) == ["table", "more"]
    for found in (kept, parts.find("one", KEY)):
        for name, rows in TABLES.items():
            pd.testing.assert_frame_equal(found[name], rows)
    assert parts.find("two", KEY) is None and parts.elsewhere() == ""


@pytest.mark.parametrize("other", [{"iteration": 7}, {"weights": "abc"}, {"deterministic": True}, {"more": 1}])
def test_a_part_of_other_things_is_not_read(tmp_path, other):
    parts = Parts(tmp_path)
    parts.keep("one", KEY, TABLES)
    assert parts.find("one", KEY | other) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: text.replace("0.3333", "0.3334"), id="other digit"),
        pytest.param(lambda text: text.replace("32\\n", ""), id="row missing"),
        pytest.param(lambda text: "[]", id="a list"),
        pytest.param(lambda text: "\x00" * 40, id="zeros"),
        pytest.param(
            lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k not in ("sealed", "digest")}),
            id="no seal",
        ),
        pytest.param(
            lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "digest"}), id="no digest"
        ),
    ],
)
def test_a_damaged_part_is_as_if_there_were_none(tmp_path, damage):
    parts, path = Parts(tmp_path), tmp_path / "parts" / "one.json"
    parts.keep("one", KEY, TABLES)
    path.write_text(damage(path.read_text()))
    assert parts.find("one", KEY) is None
    parts.keep("one", KEY, TABLES)
    assert parts.find("one", KEY) is not None


def test_what_was_measured_otherwise_is_told(tmp_path):
    Parts(tmp_path, {"device": "cuda (NVIDIA H200)", "commit": "70e6ed2"}).keep("one", KEY, TABLES)
    parts = Parts(tmp_path, {"device": "cpu", "commit": "95e1b7a"})
    parts.keep("two", KEY, TABLES)
    parts.find("two", KEY)
    assert parts.elsewhere() == ""
    parts.find("one", KEY)
    assert parts.elsewhere() == f"gradlab {provenance.version('gradlab')}, device cuda (NVIDIA H200), commit 70e6ed2"


def test_what_another_version_measured_is_measured_again(tmp_path):
    Parts(tmp_path, {"gradlab": "9.9.9"}).keep("one", KEY, TABLES)
    assert Parts(tmp_path).find("one", KEY) is None
    Parts(tmp_path, {"gradlab": provenance.UNKNOWN}).keep("one", KEY, TABLES)  # of a copy that was not installed
    assert Parts(tmp_path).find("one", KEY) is not None


def test_clearing_leaves_what_is_not_a_part(tmp_path):
    parts = Parts(tmp_path)
    parts.clear()
    parts.keep("one", KEY, TABLES)
    (tmp_path / "parts" / "mine.txt").write_text("")
    parts.clear()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine.txt"]
    (tmp_path / "parts" / "mine.txt").unlink()
    parts.keep("one", KEY, TABLES)
    parts.clear()
    assert not (tmp_path / "parts").exists()


def test_without_a_folder_nothing_is_kept():
    parts = Parts()
    pd.testing.assert_frame_equal(parts.keep("one", KEY, TABLES)["table"], ROWS)
    assert parts.find("one", KEY) is None
    parts.clear()


def test_a_record_is_sealed(tmp_path):
    Parts(tmp_path).keep("one", KEY, TABLES)
    assert digests.is_whole(json.loads((tmp_path / "parts" / "one.json").read_text()))


def ends_the_work(monkeypatch, after):
    """Time is up when so many pieces were measured."""
    asked = iter(range(1000))
    monkeypatch.setattr(
        signals, "stop_reason", lambda deadline=None: "at the time limit" if next(asked) >= after else None
    )


def pieces(measured, *keys):
    def measure(at):
        measured.append(at)
        return {"table": ROWS.assign(at=at), "more": ROWS.head(1)}

    return [Piece(f"piece-{at}", functools.partial(measure, at), key) for at, key in enumerate(keys)]


def test_pieces_are_measured_once_in_order_and_skipped_in_the_progress(tmp_path, monkeypatch):
    measured, skipped = [], []

    class Advance:
        def skip(self, n, note=""):
            skipped.append(n)

    wanted = pieces(measured, KEY, None, KEY | {"iteration": 7})
    ends_the_work(monkeypatch, after=2)
    parts = Parts(tmp_path)
    with pytest.raises(Stopped, match="stopped at the time limit"):
        parts.each(wanted, Advance())
    so_far, share = parts.so_far()
    assert measured == [0, 1] and share == 2 and skipped == []
    assert so_far["table"]["at"].tolist() == [0] * 2 + [1] * 2 and len(so_far["more"]) == 2
    monkeypatch.undo()
    parts = Parts(tmp_path)
    found = joined(parts.each(wanted, Advance()))
    assert measured == [0, 1, 1, 2] and skipped == [1]  # the second has no key, and is not kept
    assert found["table"]["at"].tolist() == [0] * 2 + [1] * 2 + [2] * 2
    pd.testing.assert_frame_equal(found["table"], joined(Parts(tmp_path).each(wanted))["table"])


def test_a_context_counts_pieces_that_were_kept_and_gives_the_others_the_progress(tmp_path):
    def measure(at, advance):
        advance(2, f"piece {at}")
        return {"table": ROWS.assign(at=at)}

    console = Console(file=io.StringIO(), width=200)
    context = Context(
        out=tmp_path, folder=tmp_path, runs=tmp_path, profile="quick", seed=0, options=RunOptions(),
        train_images=None, test_images=None, progress=Progress(console), parts=Parts(tmp_path),
    )  # fmt: skip
    context.parts.keep("piece-0", KEY, {"table": ROWS.assign(at=9)})
    wanted = [Piece(f"piece-{at}", functools.partial(measure, at), KEY, units=2) for at in range(2)]
    assert context.measure("rows", wanted)["table"]["at"].tolist() == [9, 9, 1, 1]
    assert "rows: 4/4 in " in console.file.getvalue() and "piece 1" in console.file.getvalue()


def test_what_was_measured_is_written_as_partial_sealed_and_cleared(tmp_path):
    parts = Parts(tmp_path)
    assert parts.write_partial({}, {"partial": "nothing"}) is None and not (tmp_path / "partial").exists()
    folder = parts.write_partial(TABLES, {"partial": "stopped by SIGTERM after 1 piece", "seed": 0})
    record = digests.read_record(folder)
    assert (
        folder == tmp_path / "partial"
        and record["partial"].startswith("stopped by")
        and record["tables"] == list(TABLES)
    )
    pd.testing.assert_frame_equal(digests.read_table(folder / "table.csv", record), ROWS)
    parts.clear()
    assert not folder.exists()
