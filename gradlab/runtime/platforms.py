"""Operating systems: work that relies on POSIX locks and signals is refused on Windows, before it writes anything."""

from __future__ import annotations

import sys

from gradlab.errors import GradlabError


def require_posix(what: str) -> None:
    """Refuse to go on if this is Windows.

    Args:
        what: the command or function, as the user called it.

    Raises:
        GradlabError: this is Windows.
    """
    if sys.platform == "win32":
        raise GradlabError(
            f"{what} needs Linux or macOS, and this is Windows: use WSL; toy problems, compare, check, the recorder "
            "and the monitor also work here"
        )
