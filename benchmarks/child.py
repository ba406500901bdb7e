"""Runs one contender of one case: ``child.py FILE CASE ROLE OPTIONS``; see ``harness``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

AT_LEAST = 0.2  # seconds that a run takes; shorter work is repeated


def main() -> None:
    """Set up, then obey stdin: ``go`` or ``end``, one JSON object a line on the real stdout."""
    # What libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    try:
        source, index, role, options = sys.argv[1:]
        sys.path.insert(0, str(Path(__file__).parent))
        import harness

        opts = harness.Options(**json.loads(options))
        case = harness.load(Path(source))[int(index)]
        who = {"ours": case.ours, "limit": case.limit}.get(role) or case.peers[int(role)]
        _threads(opts.threads)
        work = who.setup(opts)
        work()
        begin = time.perf_counter()
        value = work()
        took = time.perf_counter() - begin
        repeat = max(1, int(AT_LEAST / max(took, 1e-7)))
        _forget_peak()
        say(ready=True)
        for line in sys.stdin:
            if line.strip() == "end":
                say(peak_mb=_peak_mb(), value=_plain(value))
                return
            begin = time.perf_counter()
            for _ in range(repeat):
                value = work()
            say(seconds=(time.perf_counter() - begin) / repeat / who.share(opts))
    except BaseException as error:
        text = str(error).strip().splitlines()
        say(error=f"{type(error).__name__}: {text[0] if text else ''}"[:200])


def _threads(count: int) -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(count)


def _forget_peak() -> None:
    """The peak of memory counts from here on (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1024)


def _plain(value: Any) -> Any:
    """Numbers to compare ours and theirs by, if there are any."""
    try:
        return [float(v) for v in value]
    except (TypeError, ValueError):
        return None


if __name__ == "__main__":
    main()
