"""Ids of cases, fixtures that several packages share, and which tests run without extras (``make minimal``)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from gradlab import data

LONGEST = (
    "studies/test_studies.py",
    "training/test_engines.py",
    "studies/test_notebooks.py",
    "trials/test_stay.py",
    "test_docs.py",
    "runtime/test_distributed.py",
    "runtime/test_faults.py",
    "test_docs_code.py",
    "snr/test_recorder.py",
)
"""Files that take the longest; they come first, so that no worker is left with one of them while the other is done."""

# Where CompressAI is missing, tests of what needs an extra are not collected.
NEED_EXTRAS = [
    *("codecs", "data", "evaluation", "studies", "study", "training", "trials"),
    "objectives/test_universal.py",
    *(f"runtime/test_{name}.py" for name in ("determinism", "distributed", "faults")),
    *(f"test_{name}.py" for name in ("cli", "docs", "docs_code", "docstrings", "packaging", "release", "validation")),
]
collect_ignore = [] if find_spec("compressai") else NEED_EXTRAS

# Cases of these are refused by their types, which are not checked where beartype is missing.
NEED_BEARTYPE = (
    "test_two_level.py::test_bad_settings",
    "test_proxies.py::test_bad_parameters_are_refused",
    "test_testing.py::test_bad_input",
    "test_testing.py::test_bad_options",
)


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Write out dicts and sequences (``k=0,l=2``), where pytest would number them (``change6``)."""
    if isinstance(val, (list, tuple, set)):
        return " ".join(_parts(val)) or "empty"
    return describe(val) if isinstance(val, (dict, torch.dtype)) else None


def describe(value: Any) -> str:
    """A value in few words, the same in every process; of an object its class."""
    if isinstance(value, dict):
        text = ",".join(f"{name}={describe(v)}" for name, v in value.items()) or "{}"
    elif isinstance(value, (list, tuple, set)):
        text = f"({','.join(_parts(value))})"
    elif value is None or isinstance(value, (str, bool, int, float, bytes)):
        text = ascii(value).strip("'")
    elif isinstance(value, torch.dtype):
        text = str(value).removeprefix("torch.")
    else:
        text = type(value).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."


def _parts(values: list[Any] | tuple[Any, ...] | set[Any]) -> list[str]:
    parts = list(map(describe, values))
    return sorted(parts) if isinstance(values, set) else parts  # a set has another order in every process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
    if not find_spec("beartype"):
        for item in items:
            if any(name in item.nodeid for name in NEED_BEARTYPE):
                item.add_marker(pytest.mark.skip(reason="types are not checked without beartype"))


@pytest.fixture(scope="session")
def small_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two test photographs, cut to a size that all of evaluation takes: coding time goes with the pixels."""
    from PIL import Image

    from gradlab.evaluation.metrics import SMALLEST_FOR_MS_SSIM

    folder, side = tmp_path_factory.mktemp("photographs"), SMALLEST_FOR_MS_SSIM + 15
    for picture in data.embedded("test")[:3:2]:
        pixels = picture.pixels[:, -side:, -side:].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{Path(picture.name).stem}.png")
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[data.Picture]:
    """Two embedded photographs to train on."""
    return [p for p in data.embedded("train") if p.name in ("coffee.png", "rocket.jpg")]
