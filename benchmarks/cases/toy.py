"""Toy draws: mean and variance of the pathwise gradient of IWAE, k = 8, on ``BoxGaussian``; float32, float64 sums."""

from __future__ import annotations

from harness import Case, Contender, Options, Work, noise_alone

PHI, X, STD, K = 0.3, 1.0, 0.5, 8
CHUNK = 50_000  # draws at a time for peers that would otherwise hold all of them; the fastest size of those tried
LOOP = 1000


def draws(options: Options) -> int:
    """How many."""
    return 50_000 if options.quick else 1_000_000


def ours(options: Options) -> Work:
    """``gradlab.compare``; standard errors, and the exact values beside, are part of what it returns."""
    import torch

    import gradlab as gl

    box = gl.problems.BoxGaussian(phi=PHI, x=X, likelihood_std=STD)

    def work() -> tuple[float, float]:
        row = gl.compare(box, ("pathwise",), k=K, draws=draws(options), dtype=torch.float32).iloc[0]
        return row["mean"], row["variance"]

    return work


def jax(options: Options, generator: str | None = None, chunk: int = CHUNK) -> Work:
    """``jit(vmap(grad))``, one compiled program over all chunks."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    chunks = max(1, draws(options) // chunk)

    def bound(phi, u):  # type: ignore[no-untyped-def]
        y = phi + u
        log_w = -0.5 * jnp.square((X - y) / STD) - 0.5 * jnp.square(y)
        return jax.scipy.special.logsumexp(log_w)

    grad = jax.vmap(jax.grad(bound), in_axes=(None, 0))

    def step(key):  # type: ignore[no-untyped-def]
        u = jax.random.uniform(key, (draws(options) // chunks, K), dtype=jnp.float32) - jnp.float32(0.5)
        g = grad(jnp.float32(PHI), u).astype(jnp.float64)
        return g.sum(), jnp.square(g - 1.757).sum()

    @jax.jit
    def run(key):  # type: ignore[no-untyped-def]
        first, second = jax.lax.map(step, jax.random.split(key, chunks))
        return first.sum(), second.sum()

    n = draws(options)
    keys = iter(range(10**9))

    def work() -> tuple[float, float]:
        first, second = (float(v) for v in run(jax.random.key(next(keys), impl=generator)))
        mean = first / n
        return mean, (second - n * (mean - 1.757) ** 2) / (n - 1)

    del np
    return work


def jax_rbg(options: Options) -> Work:
    """The same with the generator of XLA's backend, which is faster than threefry, jax's default."""
    return jax(options, "unsafe_rbg")


def torch_func(options: Options) -> Work:
    """``torch.func.vmap(grad)``, chunk by chunk."""
    import torch

    def bound(phi, u):  # type: ignore[no-untyped-def]
        y = phi + u
        log_w = -0.5 * ((X - y) / STD).square() - 0.5 * y.square()
        return torch.logsumexp(log_w, 0)

    grad = torch.func.vmap(torch.func.grad(bound), in_dims=(None, 0))
    phi = torch.tensor(PHI)
    return _torch_chunks(options, lambda n: grad(phi, torch.rand(n, K) - 0.5))


def pyro(options: Options) -> Work:
    """``RenyiELBO(alpha=0)`` with plates: particles are the k samples, the plate the draws."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import RenyiELBO

    pyro.enable_validation(False)
    n = min(CHUNK, draws(options))
    phi = torch.full((n,), PHI, requires_grad=True)

    def model() -> None:
        with pyro.plate("draws", n, dim=-1):
            y = pyro.sample("y", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(y, STD), obs=torch.full((n,), X))

    class Box(dist.TorchDistribution):  # Pyro's Uniform masks the walls, which costs it; the box has log q = 0
        arg_constraints: dict = {}  # noqa: RUF012
        support = dist.constraints.real
        has_rsample = True

        def __init__(self, centre: torch.Tensor) -> None:
            self.centre = centre
            super().__init__(centre.shape, validate_args=False)

        def expand(self, shape, _instance=None):  # type: ignore[no-untyped-def]
            return Box(self.centre.expand(shape))

        def rsample(self, sample_shape=()):  # type: ignore[no-untyped-def]
            return self.centre + torch.rand(torch.Size(sample_shape) + self.centre.shape) - 0.5

        def log_prob(self, value):  # type: ignore[no-untyped-def]
            return torch.zeros_like(value)

    def guide() -> None:
        with pyro.plate("draws", n, dim=-1):
            pyro.sample("y", Box(phi))

    elbo = _PerDraw(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    del RenyiELBO

    def grads(count: int) -> torch.Tensor:
        (g,) = torch.autograd.grad(elbo.per_draw(model, guide), phi)
        return g[:count]

    return _torch_chunks(options, grads)


class _PerDrawBase:
    """Set below, where Pyro is there."""


try:
    import torch as _torch
    from pyro.infer import RenyiELBO as _Renyi
    from pyro.infer.util import torch_item as _torch_item  # noqa: F401

    class _PerDraw(_Renyi):
        """RenyiELBO sums log-weights over the plate before the log mean exp; each draw is to keep its own."""

        def per_draw(self, model, guide):  # type: ignore[no-untyped-def]
            """Sum over draws of the log mean of the k weights."""
            (traces,) = [list(self._get_traces(model, guide, (), {}))]
            total = 0.0
            for model_trace, guide_trace in traces:
                model_trace.compute_log_prob()
                guide_trace.compute_log_prob()
                log_w = 0.0
                for trace, sign in ((model_trace, 1), (guide_trace, -1)):
                    for site in trace.nodes.values():
                        if site["type"] == "sample" and site["name"] != "draws" and "plate" not in site["name"]:
                            log_w = log_w + sign * site["log_prob"]
                total = total + _torch.logsumexp(log_w, 0).sum()
            return total

except ImportError:
    pass


def storchastic(options: Options) -> Work:
    """Reparameterised samples in plates: one of k, one of the draws."""
    import storch
    import torch
    from storch.method import Reparameterization

    n = min(CHUNK, draws(options))

    class Box(torch.distributions.Uniform):
        """log q = 0 without the mask, as for Pyro."""

        def log_prob(self, value):  # type: ignore[no-untyped-def]
            return torch.zeros_like(value)

    def grads(count: int) -> torch.Tensor:
        phi = torch.full((n,), PHI, requires_grad=True)
        storch.reset()
        batch = storch.denote_independent(phi, 0, "draws")
        y = Reparameterization("y", n_samples=K)(Box(batch - 0.5, batch + 0.5, validate_args=False))
        log_w = -0.5 * ((X - y) / STD) ** 2 - 0.5 * y**2
        total = torch.logsumexp(log_w._tensor, 0).sum()
        (g,) = torch.autograd.grad(total, phi)
        return g[:count]

    return _torch_chunks(options, grads)


def numpy(options: Options) -> Work:
    """The closed form by hand: what somebody writes who needs it once."""
    import numpy as np

    n, rng = draws(options), np.random.default_rng(0)

    def work() -> tuple[float, float]:
        first = second = 0.0
        for start in range(0, n, CHUNK):
            size = min(CHUNK, n - start)
            y = rng.random((size, K), dtype=np.float32) + np.float32(PHI - 0.5)
            w = np.exp(np.float32(-0.5 / STD**2) * np.square(X - y) - np.float32(0.5) * np.square(y))
            slope = (X - y) * np.float32(STD**-2) - y
            g = ((w * slope).sum(1) / w.sum(1)).astype(np.float64)
            first, second = first + g.sum(), second + np.square(g - 1.757).sum()
        mean = first / n
        return mean, (second - n * (mean - 1.757) ** 2) / (n - 1)

    return work


def loop(options: Options) -> Work:
    """One backward pass per draw; a thousandth of the draws."""
    import torch

    def work() -> tuple[float, float]:
        phi = torch.tensor(PHI, requires_grad=True)
        found = []
        for _ in range(_loops(options)):
            y = phi + torch.rand(K) - 0.5
            log_w = -0.5 * ((X - y) / STD).square() - 0.5 * y.square()
            found.append(torch.autograd.grad(torch.logsumexp(log_w, 0), phi)[0])
        grads = torch.stack(found).double()
        return float(grads.mean()), float(grads.var())

    return lambda: [work() and None]  # too few draws to compare


def uniform(options: Options) -> Work:
    """The noise alone."""
    return noise_alone(draws(options) * K)


def _loops(options: Options) -> int:
    return min(LOOP, draws(options))


def _torch_chunks(options: Options, grads) -> Work:  # type: ignore[no-untyped-def]
    """Mean and variance over all draws of ``grads(n) -> [n]``, summed in float64."""
    n = draws(options)

    def work() -> tuple[float, float]:
        first = second = 0.0
        for start in range(0, n, CHUNK):
            g = grads(min(CHUNK, n - start)).double()
            first, second = first + float(g.sum()), second + float((g - 1.757).square().sum())
        mean = first / n
        return mean, (second - n * (mean - 1.757) ** 2) / (n - 1)

    return work


CASES = (
    Case(
        name="toy draws: pathwise, k = 8",
        ours=Contender("gradlab.compare", ours, peers=False),
        peers=(
            Contender("jax jit(vmap(grad))", jax),
            Contender("jax, generator unsafe_rbg", jax_rbg),
            Contender("torch.func vmap(grad)", torch_func),
            Contender("Pyro RenyiELBO, plates", pyro),
            Contender("storchastic, plates", storchastic),
            Contender("numpy, closed form", numpy),
            Contender("loop, one draw each", loop, share=lambda o: _loops(o) / draws(o)),
        ),
        goal="1.0 of the fastest peer, aim 0.8",
        ratio=1.0,
        limit=Contender("uniform", uniform),
        limit_is="uniform numbers on one core",
        same=0.05,
    ),
)
