"""Base noise, drawn apart from the transform so that estimators can share draws.

Every random stream is derived from ``(seed, purpose, index)``: adding a study, an estimator or a
worker never changes the numbers of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import prod
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.quasirandom import SobolEngine

from gradlab import kernels
from gradlab.errors import GradlabError, unknown
from gradlab.kernels import arrays
from gradlab.validation import whole, wholes


class Rows(torch.Generator):
    """A generator for the noise of a whole batch, of which each process keeps its share of the rows.

    Every process draws all rows, so that a batch sees the same noise however many processes share it.

    Attributes:
        rank: index of the share that this process keeps.
        ranks: number of equal shares.
    """

    rank: int
    ranks: int

    def __new__(cls, device: str | torch.device, rank: int, ranks: int) -> Rows:
        """On ``device``."""
        generator = super().__new__(cls, device=device)  # type: ignore[call-arg]
        generator.rank, generator.ranks = rank, ranks
        return generator

    def __init__(self, device: str | torch.device, rank: int, ranks: int) -> None:
        pass


def stream(
    seed: SupportsIndex,
    purpose: str,
    index: SupportsIndex = 0,
    device: str | torch.device = "cpu",
    part: tuple[int, int] = (0, 1),
) -> torch.Generator:
    """Return a generator whose state depends on ``(seed, purpose, index)`` alone.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for, e.g. ``"compare"`` or ``"crops"``.
        index: which of the streams of that purpose, e.g. the iteration.
        device: where the numbers are drawn.
        part: ``(rank, ranks)`` of the process, which keeps its share of the rows; a single process keeps all.
    """
    generator = Rows(device, *part) if part[1] > 1 else torch.Generator(device=device)
    generator.manual_seed(seed_of(seed, purpose, index))
    return generator


def seed_of(seed: SupportsIndex, purpose: str, index: SupportsIndex = 0) -> int:
    """Return the seed of that stream, for an existing generator, e.g. one that a CUDA graph has registered."""
    digest = hashlib.sha256(f"{whole('seed', seed)}/{purpose}/{whole('index', index)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: manual_seed takes a signed 64-bit integer


BASE = {"uniform": torch.rand, "normal": torch.randn}


def draw(
    kind: str,
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Draw base noise by the name that a posterior gives it.

    Args:
        kind: ``"uniform"``, U(-1/2, 1/2), or ``"normal"``, N(0, 1).
        shape: of the noise.
        generator: random stream; None is torch's own.
        dtype: a floating-point type.
        device: where the noise is drawn without a generator.

    Raises:
        GradlabError: unknown kind, or a shape with a size below 1.
    """
    if kind not in BASE:
        raise unknown("base noise", kind, BASE)
    if not dtype.is_floating_point:
        raise GradlabError(f"noise of {dtype} cannot be drawn: give a floating-point type, e.g. torch.float64")
    shape = tuple(wholes("shape", shape, empty=True))
    if any(size < 1 for size in shape):
        raise GradlabError(f"noise of shape {shape} is empty: every size must be at least 1")
    device = generator.device if generator is not None else device
    if isinstance(generator, Rows):
        whole = (shape[0] * generator.ranks, *shape[1:])
        values = BASE[kind](whole, generator=generator, dtype=dtype, device=device).chunk(generator.ranks)[
            generator.rank
        ]
    else:
        values = BASE[kind](shape, generator=generator, dtype=dtype, device=device)
    return values.sub_(0.5) if kind == "uniform" else values


def uniform(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Draw noise of the unit box, U(-1/2, 1/2); arguments as for :func:`draw`."""
    return draw("uniform", shape, generator, dtype, device)


def normal(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Draw standard normal noise; arguments as for :func:`draw`."""
    return draw("normal", shape, generator, dtype, device)


BLOCK = 2**18
"""Samples in a block of :func:`words`: two megabytes in float64."""
WORDS = {torch.float64: np.int64, torch.float32: np.int32}
"""Floating-point type -> type of the integers that its noise is made of."""
LANES = kernels.LANES
"""Independent streams that numbers are taken from in turn, so that a processor computes several at once."""


def words(
    draws: int,
    k: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    fast: bool = False,
) -> Iterator[NDArray[Any]]:
    """Yield random integers for many draws of k samples, one block of draws at a time, as arrays ``[k, rows]``.

    The integers come from numpy's SFC64 (Doty-Humphrey 2018) on 16 streams in turn, seeded by one number of
    ``generator``, in a tenth of the time of torch's Mersenne twister. :func:`from_words` turns them into noise.

    Args:
        draws: number of draws in all blocks together.
        k: samples per draw.
        generator: on the CPU; None is torch's own.
        dtype: one of ``WORDS``.
        fast: use the compiled loop, which pays for its import from some millions of samples on; same numbers.
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
    """Draw ``[rows * LANES]`` numbers from streams with state ``[4, LANES]``, which is updated in place."""
    drawn = np.empty((rows, LANES), np.uint64)
    (kernels.sfc64 if fast else arrays.sfc64)(state, drawn)
    return drawn.ravel()


def unit(integers: NDArray[Any]) -> Any:
    """Return the step between the noise of neighbouring integers, which spans [-1/2, 1/2], both ends included.

    Raises:
        GradlabError: an array of another kind.
    """
    if not isinstance(integers, np.ndarray) or integers.dtype not in WORDS.values():
        raise GradlabError("noise is made of int64 or int32 numpy arrays: give those of gradlab.noise.words")
    return (np.float64 if integers.dtype == np.int64 else np.float32)(2.0 ** (-8 * integers.itemsize))


def from_words(integers: NDArray[Any]) -> NDArray[Any]:
    """Turn integers of :func:`words` into U(-1/2, 1/2), rounded to the floating-point type of the same size."""
    return integers.astype(unit(integers).dtype) * unit(integers)


GROUPS = {"antithetic": 2, "stratified": 32, "sobol": 32}
"""Coupling -> number of draws that it couples."""


def coupled(
    kind: str,
    shape: tuple[int, ...],
    coupling: str,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Draw base noise whose draws (first axis) are coupled within consecutive groups of ``GROUPS[coupling]``.

    Each draw has exactly the distribution of :func:`draw`, with independent coordinates, so that expectations over one
    draw, and the mean of an estimate over draws, are those of independent draws. Groups are independent.

    - ``"antithetic"``: pairs, the second the mirror image of the first;
    - ``"stratified"``: Latin hypercube (McKay et al. 1979), one value of each coordinate in each of 32 strata;
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
    """Draw a random permutation of the strata for each group and coordinate, ``[groups, size, width]``."""
    keys = torch.rand((groups, size, width), generator=generator, dtype=torch.float64, device=device)
    return keys.argsort(dim=1)


def _sobol(
    groups: int, size: int, width: int, generator: torch.Generator | None, device: str | torch.device | None
) -> Tensor:
    """Return the strata ``[groups, size, width]`` of the first ``size`` Sobol points, under Owen's nested scrambling.

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
