"""Base noise, drawn apart from the transform so that estimators can share draws.

Every random stream is derived from ``(seed, purpose, index)``: adding a study, an estimator or a
worker never changes the numbers of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.quasirandom import SobolEngine

from gradlab.errors import GradlabError, unknown


class Rows(torch.Generator):
    """A generator of the noise of a whole batch, of which one process takes its rows.

    Every process draws all rows and keeps its own, so that a batch sees the same noise however many processes share it.

    Attributes:
        rank: which of the equal parts of the rows is taken; ranks: how many there are.
    """

    rank: int
    ranks: int

    def __new__(cls, device: str | torch.device, rank: int, ranks: int) -> Rows:
        """On ``device``."""
        made = super().__new__(cls, device=device)  # type: ignore[call-arg]
        made.rank, made.ranks = rank, ranks
        return made

    def __init__(self, device: str | torch.device, rank: int, ranks: int) -> None:
        pass


def stream(
    seed: int,
    purpose: str,
    index: int = 0,
    device: str | torch.device = "cpu",
    part: tuple[int, int] = (0, 1),
) -> torch.Generator:
    """A generator whose state depends on ``(seed, purpose, index)`` alone.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for, e.g. ``"compare"`` or ``"crops"``.
        index: which of the streams of that purpose, e.g. the iteration.
        device: where the numbers are drawn.
        part: ``(rank, ranks)`` of the process that takes its rows of the noise; alone it takes all of them.
    """
    generator = Rows(device, *part) if part[1] > 1 else torch.Generator(device=device)
    generator.manual_seed(seed_of(seed, purpose, index))
    return generator


def seed_of(seed: int, purpose: str, index: int = 0) -> int:
    """The seed of that stream, for a generator that is there already, e.g. one that a CUDA graph has registered."""
    digest = hashlib.sha256(f"{int(seed)}/{purpose}/{int(index)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: manual_seed takes a signed 64-bit integer


def uniform(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Noise of the unit box, U(-1/2, 1/2), of ``shape``."""
    return _drawn(torch.rand, shape, generator, dtype, device).sub_(0.5)


def normal(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Standard normal noise of ``shape``."""
    return _drawn(torch.randn, shape, generator, dtype, device)


def _drawn(
    draw: Callable[..., Tensor],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: str | torch.device | None,
) -> Tensor:
    device = generator.device if generator is not None else device
    if not isinstance(generator, Rows):
        return draw(shape, generator=generator, dtype=dtype, device=device)
    whole = draw((shape[0] * generator.ranks, *shape[1:]), generator=generator, dtype=dtype, device=device)
    return whole[generator.rank * shape[0] : (generator.rank + 1) * shape[0]]


BASE = {"uniform": uniform, "normal": normal}


def draw(
    kind: str,
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Base noise by the name that a posterior gives it (``"uniform"`` or ``"normal"``).

    Raises:
        GradlabError: unknown kind, or a shape with a size below 1.
    """
    if kind not in BASE:
        raise unknown("base noise", kind, BASE)
    if not dtype.is_floating_point:
        raise GradlabError(f"noise of {dtype} cannot be drawn: give a floating-point type, e.g. torch.float64")
    if any(size < 1 for size in shape):
        raise GradlabError(f"noise of shape {tuple(shape)} is empty: every size must be at least 1")
    return BASE[kind](shape, generator, dtype, device)


BLOCK = 2**18
"""Samples of a block of :func:`words`: two megabytes in float64."""
WORDS = {torch.float64: np.int64, torch.float32: np.int32}
"""The integers that numbers of a type are made of."""


LANES = 16
"""Independent streams that numbers are taken from in turn, so that a processor computes several at once."""


def words(
    draws: int,
    k: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    fast: bool = False,
) -> Iterator[NDArray[Any]]:
    """Random integers for very many draws of k samples, a block of draws at a time, as arrays ``[k, rows]``.

    They are numpy's SFC64 (Doty-Humphrey 2018) on 16 streams in turn, seeded by one number of ``generator``: a tenth of
    the time of torch's Mersenne twister. ``from_words`` makes noise of them.

    Args:
        draws: how many in all blocks together.
        k: samples of a draw.
        generator: on the CPU; None is torch's own.
        dtype: one of ``WORDS``.
        fast: by the compiled loop, which is worth its loading from some millions of samples on; to the same numbers.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    kind, rows = np.dtype(WORDS[dtype]), max(1, BLOCK // k)
    state = np.ones((4, LANES), np.uint64)
    state[:3] = np.random.SeedSequence(seed).generate_state(3 * LANES, np.uint64).reshape(3, LANES)
    _sfc64(state, 12, fast)  # as numpy does, until the seed has reached all of the state
    for start in range(0, draws, rows):
        shape = (k, min(rows, draws - start))
        drawn = _sfc64(state, -(-prod(shape) * kind.itemsize // (8 * LANES)), fast)
        yield drawn.view(kind)[: prod(shape)].reshape(shape)


def _sfc64(state: NDArray[np.uint64], rows: int, fast: bool) -> NDArray[np.uint64]:
    """``[rows * LANES]`` numbers of the streams whose state is ``[4, LANES]``, which moves on."""
    found = np.empty((rows, LANES), np.uint64)
    if fast:
        from gradlab import kernels

        kernels.sfc64(state, found)
    else:
        source = np.random.SFC64(0)
        for lane in range(LANES):
            source.state = {**source.state, "state": {"state": state[:, lane]}}
            found[:, lane] = source.random_raw(rows)
            state[:, lane] = source.state["state"]["state"]
    return found.ravel()


def unit(of: NDArray[Any]) -> Any:
    """What one step of such integers is worth: they go from -1/2 to 1/2, both ends met.

    Raises:
        GradlabError: an array of another kind.
    """
    if not isinstance(of, np.ndarray) or of.dtype not in WORDS.values():
        raise GradlabError("noise is made of int64 or int32 numpy arrays: give those of gradlab.noise.words")
    return (np.float64 if of.dtype == np.int64 else np.float32)(2.0 ** (-8 * of.itemsize))


def from_words(of: NDArray[Any]) -> NDArray[Any]:
    """U(-1/2, 1/2), rounded to the type of the same size."""
    return of.astype(unit(of).dtype) * unit(of)


GROUPS = {"antithetic": 2, "stratified": 32, "sobol": 32}
"""How many draws are coupled together, by the name of the coupling."""


def coupled(
    kind: str,
    shape: tuple[int, ...],
    coupling: str,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Base noise whose draws (first axis) are coupled within consecutive groups of ``GROUPS[coupling]``.

    Each draw on its own is distributed exactly as by :func:`draw`, all its coordinates independent, so that every
    expectation over one draw, and the mean over the draws of any estimate, is what it is for independent draws. Only
    draws of one group depend on each other; groups are independent.

    - ``"antithetic"``: pairs, the second the mirror image of the first;
    - ``"stratified"``: Latin hypercube (McKay et al. 1979), each coordinate's values one in each of 32 strata;
    - ``"sobol"``: 32 points of the Sobol sequence, scrambled anew for each group (Owen 1995).

    Raises:
        GradlabError: unknown kind or coupling, a number of draws that is no multiple of the group, or more coordinates
            than the Sobol sequence has.
    """
    if coupling not in GROUPS:
        raise unknown("noise coupling", coupling, GROUPS)
    size, draws, width = GROUPS[coupling], shape[0], prod(shape[1:])
    if draws % size:
        raise GradlabError(f"{coupling} noise couples {size} draws at a time: {draws} draws is no multiple of {size}")
    if coupling == "antithetic":
        half = draw(kind, (draws // size, *shape[1:]), generator, dtype, device)
        return torch.stack([half, -half], dim=1).reshape(shape)
    if coupling == "sobol" and width > SobolEngine.MAXDIM:
        raise GradlabError(
            f"the Sobol sequence has {SobolEngine.MAXDIM} coordinates, but one draw takes {width}: "
            "give fewer samples, or noise='stratified'"
        )
    if kind not in BASE:
        raise unknown("base noise", kind, BASE)
    device = generator.device if generator is not None else device
    strata = (_sobol if coupling == "sobol" else _latin)(draws // size, size, width, generator, device)
    # Within its stratum a point is uniform; float64, so that the outermost strata of a Normal reach far enough.
    within = torch.rand(strata.shape, generator=generator, dtype=torch.float64, device=device)
    u = ((strata + within) / size).reshape(shape)
    if kind == "uniform":
        return (u - 0.5).to(dtype)
    return torch.special.ndtri(u.clamp(min=2.0**-60)).to(dtype)


def _latin(
    groups: int, size: int, width: int, generator: torch.Generator | None, device: str | torch.device | None
) -> Tensor:
    """``[groups, size, width]`` a random permutation of the strata for each group and coordinate."""
    keys = torch.rand((groups, size, width), generator=generator, dtype=torch.float64, device=device)
    return keys.argsort(dim=1)


def _sobol(
    groups: int, size: int, width: int, generator: torch.Generator | None, device: str | torch.device | None
) -> Tensor:
    """``[groups, size, width]`` strata of the first ``size`` Sobol points, under Owen's nested scrambling.

    The first ``size = 2^m`` points have m binary digits. Each digit is flipped or not by a coin that depends on the
    digits before it; the digits beyond the m-th are free, since no two points share a stratum of any coordinate.
    """
    digits = size.bit_length() - 1
    points = (SobolEngine(width).draw(size, dtype=torch.float64) * size).long().to(device or "cpu")
    flips = torch.randint(0, 2, (groups, size - 1, width), generator=generator, device=device)
    scrambled = torch.zeros((groups, size, width), dtype=torch.long, device=device)
    for digit in range(digits):
        node = (1 << digit) - 1 + (points >> (digits - digit))
        coin = flips.gather(1, node.expand(groups, size, width))
        scrambled = 2 * scrambled + (((points >> (digits - 1 - digit)) & 1) ^ coin)
    return scrambled
