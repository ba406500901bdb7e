"""Exact moments at many k, against Monte-Carlo to a standard error of 1e-4 at each of them."""

from __future__ import annotations

from harness import Case, Contender, Options, Work

PHI, X, STD = 0.3, 1.0, 0.5
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
ERROR = 1e-4


def part(options: Options) -> float:
    """The part of the draws that the peers take; their seconds are divided by it."""
    return 0.0005 if options.quick else 0.02


def needed(k: int) -> int:
    """Draws that bring the standard error of the mean to 1e-4 (the variance falls like 1/k)."""
    return int(1.66 / k / ERROR**2)


def ours(options: Options) -> Work:
    """The problem anew each time, then mean and variance at every k."""
    import gradlab as gl

    def work() -> list[float]:
        box = gl.problems.BoxGaussian(phi=PHI, x=X, likelihood_std=STD)
        return [box.exact_moments("pathwise", k)[0] for k in SIZES]

    return work


def jax(options: Options, generator: str | None = None) -> Work:
    """``jit(vmap(grad))`` as in the case of toy draws."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def bound(phi, u):  # type: ignore[no-untyped-def]
        y = phi + u
        return jax.scipy.special.logsumexp(-0.5 * jnp.square((X - y) / STD) - 0.5 * jnp.square(y))

    grad = jax.vmap(jax.grad(bound), in_axes=(None, 0))

    def program(k: int):  # type: ignore[no-untyped-def]
        rows = max(1, 400_000 // k)
        chunks = max(1, int(needed(k) * part(options)) // rows)

        def step(key):  # type: ignore[no-untyped-def]
            u = jax.random.uniform(key, (rows, k), dtype=jnp.float32) - jnp.float32(0.5)
            return grad(jnp.float32(PHI), u).astype(jnp.float64).mean()

        return jax.jit(lambda key: jax.lax.map(step, jax.random.split(key, chunks)).mean())

    programs = [program(k) for k in SIZES]
    keys = iter(range(10**9))

    def work() -> list[float]:
        key = jax.random.key(next(keys), impl=generator)
        return [float(run(key)) for run in programs]

    return work


def jax_rbg(options: Options) -> Work:
    """The same with the generator of XLA's backend, which is faster than threefry, jax's default."""
    return jax(options, "unsafe_rbg")


CASES = (
    Case(
        name="exact moments at 8 values of k",
        ours=Contender("exact_moments", ours, peers=False),
        peers=(
            Contender("jax, Monte-Carlo to 1e-4", jax, share=part),
            Contender("jax, generator unsafe_rbg", jax_rbg, share=part),
        ),
        goal="0.0001",
        ratio=1e-4,
        same=0.05,
    ),
)
