"""Fixtures that several packages share."""

from __future__ import annotations

import pytest

from gradlab import data


@pytest.fixture(scope="session")
def pictures() -> list[data.Picture]:
    """Two embedded photographs to train on."""
    return [p for p in data.embedded("train") if p.name in ("coffee.png", "rocket.jpg")]
