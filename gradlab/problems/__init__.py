"""Toy problems whose bound, gradients and estimator moments are known exactly, at any number of samples."""

from gradlab.problems.base import Problem
from gradlab.problems.box import BoxGaussian, BoxProblem
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
    "dimension_map",
]
