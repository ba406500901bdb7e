"""Parts of a study: kept whole, read only where they are of the same things, gone when the study is complete."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from gradlab import digests
from gradlab.parts import Parts

ROWS = pd.DataFrame({"group": ["None", "z"], "snr": [1 / 3, math.nan], "own": [True, False], "draws": [32, 32]})
KEY = {"weights": "ab", "iteration": 6, "deterministic": False}


def test_a_part_comes_back_as_it_was(tmp_path):
    parts = Parts(tmp_path / "parts", {"device": "cpu"})
    assert parts.find("one", KEY) is None
    kept = parts.keep("one", KEY, ROWS)
    pd.testing.assert_frame_equal(kept, ROWS)
    pd.testing.assert_frame_equal(parts.find("one", KEY), kept)
    assert parts.find("two", KEY) is None and parts.before() == ""


@pytest.mark.parametrize("other", [{"iteration": 7}, {"weights": "abc"}, {"deterministic": True}, {"more": 1}])
def test_a_part_of_other_things_is_not_read(tmp_path, other):
    parts = Parts(tmp_path)
    parts.keep("one", KEY, ROWS)
    assert parts.find("one", KEY | other) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace("0.3333", "0.3334"),
        lambda text: text.replace("32\\n", ""),
        lambda text: "[]",
        lambda text: "\x00" * 40,
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k not in ("sealed", "digest")}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "digest"}),
    ],
)
def test_a_damaged_part_is_as_if_there_were_none(tmp_path, damage):
    parts, path = Parts(tmp_path), tmp_path / "one.json"
    parts.keep("one", KEY, ROWS)
    path.write_text(damage(path.read_text()))
    assert parts.find("one", KEY) is None
    parts.keep("one", KEY, ROWS)
    assert parts.find("one", KEY) is not None


def test_what_was_measured_otherwise_is_told(tmp_path):
    Parts(tmp_path, {"device": "cuda (NVIDIA H200)", "commit": "70e6ed2"}).keep("one", KEY, ROWS)
    parts = Parts(tmp_path, {"device": "cpu", "commit": "95e1b7a"})
    parts.keep("two", KEY, ROWS)
    parts.find("two", KEY)
    assert parts.before() == ""
    parts.find("one", KEY)
    assert parts.before() == "device cuda (NVIDIA H200), commit 70e6ed2"


def test_clearing_leaves_what_is_not_a_part(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.clear()
    parts.keep("one", KEY, ROWS)
    (tmp_path / "parts" / "mine.txt").write_text("")
    parts.clear()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine.txt"]
    (tmp_path / "parts" / "mine.txt").unlink()
    parts.keep("one", KEY, ROWS)
    parts.clear()
    assert not (tmp_path / "parts").exists()


def test_without_a_folder_nothing_is_kept():
    parts = Parts()
    pd.testing.assert_frame_equal(parts.keep("one", KEY, ROWS), ROWS)
    assert parts.find("one", KEY) is None
    parts.clear()


def test_a_record_is_sealed(tmp_path):
    Parts(tmp_path).keep("one", KEY, ROWS)
    assert digests.is_whole(json.loads((tmp_path / "one.json").read_text()))
