"""The request: its values are checked, and its command line resumes the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradlab.errors import GradlabError
from gradlab.study import Request
from gradlab.training import RunOptions
from gradlab.training.engines import Engine


def test_the_command_repeats_what_differs_from_the_defaults() -> None:
    assert Request().command(["toys"], Path("out")) == "gradlab run toys --profile quick --out out --seed 0 --resume"
    request = Request(
        profile="gpu",
        options=RunOptions(device="cpu", step="eager", tensorboard=True),
        seed=3,
        train_images=Path("my photos"),
        time_limit=5.0,
        precision="bf16",
        deterministic=True,
        engine=Engine("ray", jobs=2, gpus=0.5),
        assignments=("base.crop=128", "points=(1, 2)"),
        commit="0123abc",
    )
    assert request.command(["table1", "toys"], Path("out")) == (
        "gradlab run table1 toys --profile gpu --out out --device cpu --seed 3 --time-limit 5.0 --precision bf16 "
        "--step eager --train-images 'my photos' --commit 0123abc --engine ray --jobs 2 --gpus 0.5 "
        "--set base.crop=128 --set 'points=(1, 2)' --deterministic --tensorboard --resume"
    )


def test_a_profile_has_its_device_and_the_deadline_is_set() -> None:
    resolved = Request().resolved(deadline=7.0)
    assert resolved.options is not None
    assert (resolved.options.device, resolved.options.deadline) == ("cpu", 7.0)


@pytest.mark.parametrize(("options", "message"), [
    ({"profile": "quik"}, "unknown profile 'quik': did you mean 'quick'"),
    ({"seed": -1}, "the seed is -1: give a whole number"),
    ({"time_limit": 0.0}, "time limit is 0 minutes: give more than 0"),
    ({"commit": "main"}, "the commit is 'main': give its hash"),
    ({"precision": "bf16", "assignments": ("base.precision=tf32",)}, "the precision is given by both --precision and --set"),
])  # fmt: skip
def test_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GradlabError, match=message):
        Request(**options)
