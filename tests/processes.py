"""Processes of their own that start at once: forked from a server that has imported torch, CompressAI and gradlab.

A fresh interpreter takes seconds of CPU time for these imports. Whatever a test does to a process (signals, SIGKILL,
time limits, its output) it can do to these as well. That fresh interpreters are no different is tested where starting
is the subject: tests/test_cli.py, and the test of the evaluation beside a training.
"""

from __future__ import annotations

import atexit
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["torch._dynamo", "gradlab.cli"]
if importlib.util.find_spec("compressai"):
    PRELOADED += ["gradlab.codecs", "gradlab.study.runner", "gradlab.study.evaluations", "gradlab.study.plots",
                  "gradlab.training.engines", "gradlab.training.packing", "lightning_fabric"]  # fmt: skip


class Process:
    """What ``subprocess.Popen`` offers, for a function.

    Args:
        function: of a module, so that it can be found by name; what it returns is the exit code.
        arguments: of the function.
        log: file for what it prints; by default that of the test.
        environment: variables on top of those of the test.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        *arguments: Any,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process = CONTEXT.Process(
            target=_run, args=(function, arguments, os.getcwd(), variables, None if log is None else str(log))
        )
        serve()
        self._process.start()
        atexit.register(self._process.kill)  # left by a test that failed, it would be waited for without end
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As that of ``Popen``."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as there is one."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As that of ``Popen``."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As that of ``Popen``."""
        self._process.kill()


def serve() -> None:
    """Start the server, on one thread: a process with a pool of threads cannot be forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


def _run(
    function: Callable[..., int | None],
    arguments: tuple[Any, ...],
    folder: str,
    variables: dict[str, str],
    log: str | None,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    if log is not None:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
    sys.exit(function(*arguments))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Worker processes of the library, which are spawned, come from the server."""
    serve()
    get_context = multiprocessing.get_context

    def served(method: str | None = None) -> Any:
        assert method in (None, "spawn")  # a fork of a process with threads may hang
        return CONTEXT if method else get_context()

    monkeypatch.setattr(multiprocessing, "get_context", served)
    yield
