"""Provide toy problems whose bound, gradients and estimator moments are known exactly, at any number of samples.

===================  =================================================================================================
module               contents
===================  =================================================================================================
``base``             ``Problem``: the interface that ``compare`` and the studies use
``one_latent``       ``OneLatent``: exact answers by quadrature, shared by the next three
``box``              ``BoxProblem``, ``BoxGaussian``: the unit box, additive uniform noise
``normal``           ``NormalGaussian``: the control, a posterior with a fixed support
``rounded``          ``RoundedGaussian``: proxies of rounding
``two_level``        ``TwoLevel``: a linear hierarchy with two latents, like a codec with a hyperprior
``expectation``      ``BoxExpectation``: the paper's first example, eqs. 7-8
``rainforth``        ``RainforthModel``: the Gaussian model of Rainforth et al. (2018)
``linear_gaussian``  the model behind the box, Normal and rounded problems
``comparison``       ``compare``: bias, variance and SNR of estimators, next to the exact values
``exact``            the exact values of one estimator for one objective
``box_draws``        the fast path of ``compare`` under the box, without autograd
``budget``           the error of estimators at equal cost
``scaling``          SNR over K and M, and its slope, on ``RainforthModel``
``dimension``        ``dimension_map``: exact SNR over samples, coordinates and temperature
``_oracle``          quadrature and closed forms, which share no code with the estimators
===================  =================================================================================================

The theory is in ``docs/theory``.
"""

from gradlab.problems.base import Problem
from gradlab.problems.box import BoxGaussian, BoxProblem
from gradlab.problems.comparison import compare
from gradlab.problems.dimension import dimension_map
from gradlab.problems.expectation import BoxExpectation
from gradlab.problems.normal import NormalGaussian
from gradlab.problems.rounded import RoundedGaussian
from gradlab.problems.two_level import TwoLevel

__all__ = [
    "BoxExpectation",
    "BoxGaussian",
    "BoxProblem",
    "NormalGaussian",
    "Problem",
    "RoundedGaussian",
    "TwoLevel",
    "compare",
    "dimension_map",
]
