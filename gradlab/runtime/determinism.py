"""Make results bitwise reproducible: one thread, and operations that add in a fixed order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from gradlab.errors import GradlabError


@contextlib.contextmanager
def deterministic_mode(enabled: bool = True) -> Iterator[None]:
    """Make torch deterministic within a context.

    Sums over several threads and atomic additions otherwise have no fixed order.

    Args:
        enabled: if False, the context changes nothing.

    Raises:
        GradlabError: an operation has no deterministic implementation on its device.
    """
    if not enabled:
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    threads, benchmark, fixed = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it before its first product
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).partition(". ")[0]
        raise GradlabError(f"{reason}: give --device cpu, or leave out --deterministic") from error
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn)
        cudnn.benchmark, cudnn.deterministic = benchmark, fixed
        torch.set_num_threads(threads)
