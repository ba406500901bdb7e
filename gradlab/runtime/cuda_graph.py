"""Capture device work as a CUDA graph and replay it with new noise.

The tests of capture and replay need CUDA (last run on an H200 with torch 2.11); on a CPU the surrounding logic is
tested.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

import torch

WARM_UP = 3
"""Number of calls before the capture, in which libraries choose their algorithms and allocate buffers."""


class Replay:
    """Capture ``body`` on its own stream and replay it.

    ``body`` must not synchronise with the host, must read its inputs from tensors with fixed addresses, and must draw
    all noise from ``generator``. Reseed the generator before a replay to choose the noise. No autograd graph of the
    same parameters on the default stream may be alive, because its gradients accumulate there.

    Args:
        body: function to capture; called ``WARM_UP`` times and once during the capture. A reference is kept, so that
            the tensors that the graph reads stay alive.
        generator: generator of the noise, on the device of the work.
        stream: stream for capture and replay; a new one by default.

    Raises:
        RuntimeError: ``body`` cannot be captured.
    """

    def __init__(
        self, body: Callable[[], None], generator: torch.Generator, stream: torch.cuda.Stream | None = None
    ) -> None:
        self._body = body
        self.stream = stream or torch.cuda.Stream(generator.device)
        before = torch.cuda.current_stream(generator.device)
        self.stream.wait_stream(before)
        with self.placed():
            for _ in range(WARM_UP):
                body()
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(generator)
        # Garbage-collecting another graph during a capture aborts the capture.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(self._graph, stream=self.stream):
                body()
        finally:
            torch.cuda.set_stream(before)  # a failed capture leaves its own stream current
            if collects:
                gc.enable()

    def placed(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which to write inputs and read results, in order with the replays."""
        return torch.cuda.stream(self.stream)

    def __call__(self) -> None:
        """Queue one replay; returns before it has run."""
        with self.placed():
            self._graph.replay()

    def join(self) -> None:
        """Make the current stream wait for the queued work, so that it can read the results."""
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
