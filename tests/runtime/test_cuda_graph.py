"""The order of things around a capture, with a stand-in for CUDA; what CUDA itself does is not shown."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gradlab.runtime.cuda_graph import WARM_UP, Replay


class Cuda:
    """Remembers what was asked of it, and which stream was current."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.calls, self.fails = "default", [], False
        outer = self

        class Stream:
            device = "cuda"

            def wait_stream(self, other: Any) -> None:
                outer.calls.append(("wait", other))

        class Graph:
            def register_generator_state(self, generator: Any) -> None:
                outer.calls.append(("register", outer.current))

            def replay(self) -> None:
                outer.calls.append(("replay", outer.current))

        @contextlib.contextmanager
        def stream(side: Any) -> Iterator[None]:
            before, outer.current = outer.current, side
            yield
            outer.current = before

        @contextlib.contextmanager
        def graph(recorded: Any, stream: Any) -> Iterator[None]:
            outer.current = stream
            outer.calls.append(("capture", gc.isenabled()))
            yield
            if outer.fails:
                raise RuntimeError("not permitted")  # and the stream stays current, as in torch 2.11
            outer.current = "default"

        for name, value in {"Stream": lambda device: Stream(), "CUDAGraph": Graph, "stream": stream, "graph": graph,
                            "current_stream": lambda device: self.stream_of(), "set_stream": self.set}.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    def stream_of(self) -> Any:
        outer = self

        class Current(str):
            def wait_stream(self, other: Any) -> None:
                outer.calls.append(("join", other))

        return Current(self.current)

    def set(self, stream: Any) -> None:
        self.current = str(stream)


def test_a_body_is_warmed_up_captured_without_the_collector_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, seen = Cuda(monkeypatch), []
    held = torch.zeros(3)

    def body() -> None:
        seen.append((cuda.current, held))

    kept = weakref.ref(body)
    replay = Replay(body, torch.Generator())
    assert len(seen) == WARM_UP + 1 and all(current is replay.stream for current, _ in seen)
    assert cuda.calls == [("wait", "default"), ("register", replay.stream), ("capture", False)]
    assert gc.isenabled() and cuda.current == "default"
    del body
    gc.collect()
    assert kept() is not None  # the graph reads the tensors that the body refers to
    replay()
    replay.join()
    assert cuda.calls[3:] == [("replay", replay.stream), ("join", replay.stream)]


def test_a_capture_that_fails_leaves_stream_and_collector_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    cuda.fails = True
    with pytest.raises(RuntimeError, match="not permitted"):
        Replay(lambda: None, torch.Generator())
    assert cuda.current == "default" and gc.isenabled()
