"""Toy draws, all estimators that are right on the box, k = 64, at once; peers run the same one after the other."""

from __future__ import annotations

from harness import Case, Contender, Options, Work, noise_alone

PHI, X, STD, K = 0.3, 1.0, 0.5, 64
NAMES = ("pathwise", "stl", "dreg-boundary", "measure-valued")
CHUNK = 10_000


def draws(options: Options) -> int:
    """How many."""
    return 10_000 if options.quick else 100_000


def ours(options: Options) -> Work:
    """One call of ``gradlab.compare``."""
    import torch

    import gradlab as gl

    box = gl.problems.BoxGaussian(phi=PHI, x=X, likelihood_std=STD)

    def work() -> list[float]:
        table = gl.compare(box, NAMES, k=K, draws=draws(options), dtype=torch.float32)
        return [*table["mean"], *table["variance"]]

    return work


def jax(options: Options, generator: str | None = None) -> Work:
    """Surrogates with ``stop_gradient``, each in a compiled program of its own; the differences in closed form."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    stop = jax.lax.stop_gradient

    def log_w(y):  # type: ignore[no-untyped-def]
        return -0.5 * jnp.square((X - y) / STD) - 0.5 * jnp.square(y)

    def others(value):  # type: ignore[no-untyped-def]
        w = jnp.exp(value)
        return w.sum() - w

    walls = jnp.exp(log_w(jnp.array([PHI + 0.5, PHI - 0.5], dtype=jnp.float32)))

    def pathwise(phi, u):  # type: ignore[no-untyped-def]
        return jax.scipy.special.logsumexp(log_w(phi + u))

    def stl(phi, u):  # type: ignore[no-untyped-def]
        value = log_w(phi + u)
        return (stop(jax.nn.softmax(value)) * value).sum()

    def dreg(phi, u):  # type: ignore[no-untyped-def]
        value = log_w(phi + u)
        rest = others(stop(value))
        moved = (walls[0] / (walls[0] + rest) - walls[1] / (walls[1] + rest)).sum()
        return (stop(jnp.square(jax.nn.softmax(value))) * value).sum() + phi * stop(moved)

    def measure_valued(phi, u):  # type: ignore[no-untyped-def]
        rest = others(stop(log_w(phi + u)))
        return phi * stop((jnp.log(walls[0] + rest) - jnp.log(walls[1] + rest)).sum())

    n = draws(options)
    chunks = n // CHUNK

    def program(bound):  # type: ignore[no-untyped-def]
        grad = jax.vmap(jax.grad(bound), in_axes=(None, 0))

        def step(key):  # type: ignore[no-untyped-def]
            u = jax.random.uniform(key, (CHUNK, K), dtype=jnp.float32) - jnp.float32(0.5)
            g = grad(jnp.float32(PHI), u).astype(jnp.float64)
            return g.sum(), jnp.square(g - 1.7).sum()

        @jax.jit
        def run(key):  # type: ignore[no-untyped-def]
            first, second = jax.lax.map(step, jax.random.split(key, chunks))
            return first.sum(), second.sum()

        return run

    programs = [program(bound) for bound in (pathwise, stl, dreg, measure_valued)]
    keys = iter(range(10**9))

    def work() -> list[float]:
        key = jax.random.key(next(keys), impl=generator)
        sums = [tuple(float(v) for v in run(key)) for run in programs]
        means = [first / n for first, _ in sums]
        return means + [(s - n * (m - 1.7) ** 2) / (n - 1) for m, (_, s) in zip(means, sums, strict=True)]

    return work


def jax_rbg(options: Options) -> Work:
    """The same with the generator of XLA's backend, which is faster than threefry, jax's default."""
    return jax(options, "unsafe_rbg")


def numpy(options: Options) -> Work:
    """Closed forms by hand, one after the other, each on its own draws."""
    import numpy as np

    n, rng = draws(options), np.random.default_rng(0)
    walls = [np.float32(np.exp(-0.5 * ((X - y) / STD) ** 2 - 0.5 * y**2)) for y in (PHI + 0.5, PHI - 0.5)]

    def linear(w, total, slope):  # type: ignore[no-untyped-def]
        return (w * slope).sum(1) / total[:, 0]

    def dreg(w, total, slope):  # type: ignore[no-untyped-def]
        rest = total - w
        moved = walls[0] / (walls[0] + rest) - walls[1] / (walls[1] + rest)
        return (np.square(w / total) * slope).sum(1) + moved.sum(1)

    def measure_valued(w, total, slope):  # type: ignore[no-untyped-def]
        rest = total - w
        return np.log((walls[0] + rest) / (walls[1] + rest)).sum(1)

    def work() -> list[float]:
        means, variances = [], []
        for estimate in (linear, linear, dreg, measure_valued):
            parts = []
            for start in range(0, n, CHUNK):
                y = rng.random((min(CHUNK, n - start), K), dtype=np.float32) + np.float32(PHI - 0.5)
                w = np.exp(np.float32(-0.5 / STD**2) * np.square(X - y) - np.float32(0.5) * np.square(y))
                parts.append(estimate(w, w.sum(1, keepdims=True), (X - y) * np.float32(STD**-2) - y))
            g = np.concatenate(parts).astype(np.float64)
            means.append(g.mean())
            variances.append(g.var(ddof=1))
        return means + variances

    return work


def pathwise_alone(options: Options) -> Work:
    """The noise alone."""
    return noise_alone(draws(options) * K)


CASES = (
    Case(
        name="toy draws: 4 estimators, k = 64",
        ours=Contender("gradlab.compare", ours, peers=False),
        peers=(
            Contender("jax, one after the other", jax),
            Contender("jax, generator unsafe_rbg", jax_rbg),
            Contender("numpy, one after the other", numpy),
        ),
        goal="0.3 of the fastest peer",
        ratio=0.3,
        limit=Contender("uniform", pathwise_alone),
        limit_is="uniform numbers on one core",
        same=0.06,
    ),
)
