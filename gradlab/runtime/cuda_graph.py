"""Device work recorded once as a CUDA graph and replayed with new noise.

The tests of capture and replay need CUDA (they passed on an H200 with torch 2.11); a CPU tests the logic around them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

import torch

WARM_UP = 3
"""Calls before the capture, so that libraries choose their algorithms and buffers exist."""


class Replay:
    """Records ``body`` on its own stream and replays it.

    ``body`` must not synchronise with the host, must read its inputs from tensors with fixed addresses, and must draw
    all noise from ``generator``. Reseed the generator before a replay to choose the noise. No autograd graph of the
    same parameters from the default stream may be alive, since its gradients accumulate there.

    Args:
        body: called ``WARM_UP`` times and once under capture. A reference is kept, so that the tensors that the graph
            reads stay alive.
        generator: on the device of the work.
        stream: where to record and replay; a new one by default.

    Raises:
        RuntimeError: the body cannot be captured.
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
        # Collecting another graph during a capture aborts the capture.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(self._graph, stream=self.stream):
                body()
        finally:
            torch.cuda.set_stream(before)  # a capture that failed leaves its own stream current
            if collects:
                gc.enable()

    def placed(self) -> contextlib.AbstractContextManager[None]:
        """Return the context for writing inputs and reading results in order with the replays."""
        return torch.cuda.stream(self.stream)

    def __call__(self) -> None:
        """Queue one replay; returns before it has run."""
        with self.placed():
            self._graph.replay()

    def join(self) -> None:
        """Make the current stream wait for the work queued here, before it reads the results."""
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
