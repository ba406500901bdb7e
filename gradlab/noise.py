"""Draw base noise separately from the transform, so that estimators can share draws.

Every random stream is derived from ``(seed, purpose, index)``: adding a study, an estimator or a worker never changes
the numbers of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.quasirandom import SobolEngine

from gradlab import kernels
from gradlab.errors import GradlabError, unknown
from gradlab.kernels import arrays
from gradlab.validation import whole, wholes

if TYPE_CHECKING:
    from jaxtyping import Float


class Rows(torch.Generator):
    """A generator for the noise of a whole batch, of which each process keeps its share of the rows.

    Every process draws all rows, so a batch sees the same noise however many processes share it.

    Args:
        device: where the numbers are drawn.
        rank: index of the share that this process keeps.
        ranks: number of equal shares.

    Attributes:
        rank: index of the share that this process keeps.
        ranks: number of equal shares.
    """

    rank: int
    ranks: int

    def __new__(cls, device: str | torch.device, rank: int, ranks: int) -> Rows:
        """Create a generator on ``device``."""
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
        index: which of the streams for that purpose, e.g. the iteration.
        device: where the numbers are drawn.
        part: ``(rank, ranks)`` of the process, which keeps its share of the rows; a single process keeps all.

    Returns:
        The generator.

    Example:
        >>> import torch
        >>> from gradlab.noise import stream
        >>> first, second = (torch.rand(2, generator=stream(0, "crops", index)) for index in (7, 7))
        >>> bool(torch.equal(first, second))
        True
    """
    generator = Rows(device, *part) if part[1] > 1 else torch.Generator(device=device)
    generator.manual_seed(seed_of(seed, purpose, index))
    return generator


def seed_of(seed: SupportsIndex, purpose: str, index: SupportsIndex = 0) -> int:
    """Return the seed of a stream, for an existing generator, e.g. one that a CUDA graph has registered.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for.
        index: which of the streams for that purpose.

    Returns:
        A seed of 63 bits.

    Example:
        >>> from gradlab.noise import seed_of
        >>> seed_of(0, "crops") == seed_of(0, "crops", 1)
        False
    """
    digest = hashlib.sha256(f"{whole('seed', seed)}/{purpose}/{whole('index', index)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: manual_seed takes a signed 64-bit integer


BASE = {"uniform": torch.rand, "normal": torch.randn}


def draw(
    kind: str,
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Float[Tensor, "*shape"]:
    """Draw base noise by the name that a posterior declares.

    Args:
        kind: ``"uniform"``, U(-1/2, 1/2), or ``"normal"``, N(0, 1).
        shape: shape of the noise.
        generator: random stream; None draws from the global generator of torch.
        dtype: a floating-point type.
        device: where to draw the noise if there is no generator.

    Returns:
        Noise of that shape.

    Raises:
        GradlabError: if the kind is unknown, the type is not floating-point, or a size is below 1.

    Example:
        >>> from gradlab.noise import draw, stream
        >>> noise = draw("uniform", (1000,), stream(0, "example"))
        >>> bool((noise.abs() <= 0.5).all())
        True
    """
    if kind not in BASE:
        raise unknown("base noise", kind, BASE)
    if not dtype.is_floating_point:
        raise GradlabError(f"dtype is {dtype}: give a floating-point type, e.g. torch.float64")
    shape = tuple(wholes("shape", shape, empty=True))
    if any(size < 1 for size in shape):
        raise GradlabError(f"noise of shape {shape} is empty: give sizes of at least 1")
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
) -> Float[Tensor, "*shape"]:
    """Draw noise of the unit box, U(-1/2, 1/2).

    Args:
        shape: shape of the noise.
        generator: random stream; None draws from the global generator of torch.
        dtype: a floating-point type.
        device: where to draw the noise if there is no generator.

    Returns:
        Noise of that shape.

    Raises:
        GradlabError: under the same conditions as :func:`draw`.

    Example:
        >>> from gradlab.noise import stream, uniform
        >>> uniform((2, 3), stream(0, "example")).shape
        torch.Size([2, 3])
    """
    return draw("uniform", shape, generator, dtype, device)


def normal(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Float[Tensor, "*shape"]:
    """Draw standard normal noise, N(0, 1).

    Args:
        shape: shape of the noise.
        generator: random stream; None draws from the global generator of torch.
        dtype: a floating-point type.
        device: where to draw the noise if there is no generator.

    Returns:
        Noise of that shape.

    Raises:
        GradlabError: under the same conditions as :func:`draw`.

    Example:
        >>> from gradlab.noise import normal, stream
        >>> normal((2, 3), stream(0, "example")).shape
        torch.Size([2, 3])
    """
    return draw("normal", shape, generator, dtype, device)


BLOCK = 2**18
"""Samples in a block of :func:`words`: two megabytes in float64."""
WORDS = {torch.float64: np.int64, torch.float32: np.int32}
"""Floating-point type -> type of the integers that encode its noise."""
LANES = kernels.LANES
"""Number of independent streams that take turns, so that a processor computes several numbers at once."""


def words(
    draws: int,
    k: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    fast: bool = False,
) -> Iterator[NDArray[Any]]:
    """Yield random integers for many draws of k samples, one block of draws at a time.

    The integers come from numpy's SFC64 (Doty-Humphrey 2018), on 16 streams in turn that one number of ``generator``
    seeds. This takes a tenth of the time of torch's Mersenne twister. :func:`from_words` converts the integers to
    noise.

    Args:
        draws: number of draws in all blocks together.
        k: samples per draw.
        generator: random stream on the CPU; None draws from the global generator of torch.
        dtype: one of ``WORDS``.
        fast: whether to use the compiled loop, which pays for its import from some millions of samples on. The numbers
            are the same.

    Yields:
        Integers ``[k, rows]``.

    Example:
        >>> from gradlab.noise import from_words, stream, words
        >>> [from_words(block).shape for block in words(draws=1000, k=2, generator=stream(0, "example"))]
        [(2, 1000)]
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    kind, rows = np.dtype(WORDS[dtype]), max(1, BLOCK // k)
    state = np.ones((4, LANES), np.uint64)
    state[:3] = np.random.SeedSequence(seed).generate_state(3 * LANES, np.uint64).reshape(3, LANES)
    _sfc64(state, 12, fast)  # as numpy does, until the whole state depends on the seed
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
    """Return the step between the noise of neighbouring integers; noise spans [-1/2, 1/2], both ends included.

    Args:
        integers: an array from :func:`words`.

    Raises:
        GradlabError: if it is not an int32 or int64 array.
    """
    if not isinstance(integers, np.ndarray) or integers.dtype not in WORDS.values():
        raise GradlabError("the integers are not an int64 or int32 numpy array: give an array from gradlab.noise.words")
    return (np.float64 if integers.dtype == np.int64 else np.float32)(2.0 ** (-8 * integers.itemsize))


def from_words(integers: NDArray[Any]) -> NDArray[Any]:
    """Convert integers of :func:`words` to U(-1/2, 1/2), rounded to the floating-point type of the same size.

    Args:
        integers: an array from :func:`words`.

    Returns:
        Noise in the shape of ``integers``.

    Raises:
        GradlabError: if ``integers`` is not an int32 or int64 array.

    Example:
        >>> import numpy as np
        >>> from gradlab.noise import from_words
        >>> from_words(np.array([-(2**63), 0, 2**62])).tolist()
        [-0.5, 0.0, 0.25]
    """
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
) -> Float[Tensor, "*shape"]:
    """Draw base noise whose draws (first axis) are coupled within consecutive groups of ``GROUPS[coupling]``.

    Each draw has exactly the distribution of :func:`draw`, with independent coordinates. Expectations over one draw,
    and the mean of an estimate over draws, are therefore the same as for independent draws. Groups are independent.

    - ``"antithetic"``: pairs, of which the second is the mirror image of the first;
    - ``"stratified"``: a Latin hypercube (McKay et al. 1979), with one value of each coordinate in each of 32 strata;
    - ``"sobol"``: 32 points of the Sobol sequence, scrambled independently for each group (Owen 1995).

    Args:
        kind: ``"uniform"`` or ``"normal"``, as in :func:`draw`.
        shape: shape of the noise; the first size is a multiple of the group.
        coupling: ``"antithetic"``, ``"stratified"`` or ``"sobol"``.
        generator: random stream; None draws from the global generator of torch.
        dtype: a floating-point type.
        device: where to draw the noise if there is no generator.

    Returns:
        Noise of that shape.

    Raises:
        GradlabError: if the kind or coupling is unknown, the number of draws is not a multiple of the group, or a draw
            has more coordinates than the Sobol sequence.

    Example:
        >>> from gradlab.noise import coupled, stream
        >>> noise = coupled("normal", (4, 3), "antithetic", stream(0, "example"))
        >>> bool((noise[0] == -noise[1]).all())
        True
    """
    if coupling not in GROUPS:
        raise unknown("noise coupling", coupling, GROUPS)
    size, draws, width = GROUPS[coupling], shape[0], prod(shape[1:])
    if draws % size:
        raise GradlabError(f"{draws} draws do not fill groups of {coupling} noise: give a multiple of {size}")
    if coupling == "antithetic":
        half = draw(kind, (draws // size, *shape[1:]), generator, dtype, device)
        return torch.stack([half, -half], dim=1).reshape(shape)
    if coupling == "sobol" and width > SobolEngine.MAXDIM:
        raise GradlabError(
            f"one draw takes {width} coordinates, but the Sobol sequence has {SobolEngine.MAXDIM}: "
            "give fewer samples, or noise='stratified'"
        )
    if kind not in BASE:
        raise unknown("base noise", kind, BASE)
    device = generator.device if generator is not None else device
    strata = (_sobol if coupling == "sobol" else _latin)(draws // size, size, width, generator, device)
    # A point is uniform within its stratum; float64, so that the outermost strata of a Normal reach far enough.
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
    """Return the strata ``[groups, size, width]`` of the first ``size`` Sobol points under Owen's nested scrambling.

    The first ``size = 2^m`` points have m binary digits. Each digit is flipped with a coin that depends on the digits
    before it. The digits beyond the m-th are free, since no two points share a stratum of any coordinate.
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
