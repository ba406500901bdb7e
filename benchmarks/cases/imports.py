"""What a user waits for before anything happens."""

from __future__ import annotations

import os
import subprocess
import sys

from harness import Case, Contender, Options, Work


def python(code: str) -> Contender:
    """A fresh interpreter that runs the code."""

    def setup(options: Options) -> Work:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ)) and None

    return Contender(code, setup, peers=False)


def command(options: Options) -> Work:
    """``gradlab --help``."""
    from pathlib import Path

    program = Path(sys.executable).parent / "gradlab"
    return lambda: subprocess.run([str(program), "--help"], check=True, stdout=subprocess.DEVNULL) and None


CASES = (
    Case("import gradlab", python("import gradlab"), (python("import torch"),), goal="import torch + 0.1 s"),
    Case(
        "import gradlab, toys ready",
        python("import gradlab; gradlab.compare; gradlab.GradientRecorder; gradlab.problems"),
        (python("import torch"),),
        goal="import torch + 0.1 s",
    ),
    Case("gradlab --help", Contender("gradlab --help", command, peers=False), goal="0.5 s"),
)
