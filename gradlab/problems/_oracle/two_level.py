"""Compute the exact answers of :class:`gradlab.problems.TwoLevel`: bounds, gradients, moments and SNR of each group.

The quadrature is in ``two_level_bounds``, the theory in ``docs/theory/hierarchy.md`` and ``docs/theory/bounds.md``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, SupportsIndex

from gradlab.errors import GradlabError, NotExact, unknown
from gradlab.problems._oracle import moments, two_level_bounds
from gradlab.problems._oracle.two_level_model import GROUPS, Hierarchy
from gradlab.problems.base import Problem, check_k
from gradlab.problems.one_latent import Moments
from gradlab.validation import whole

if TYPE_CHECKING:
    import pandas as pd

PAIRS = ("elbo", "iwae", "iwae-2level")  # independent pairs (y_i, z_i)
SHARED = ("ms-nic-mix", "ms-nic-dms")  # every y with every z
NESTED = "ms-nic-dms-nested"  # eq. 14
INFERENCE = GROUPS["y infer"] + GROUPS["z infer"]


class TwoLevelOracle(Problem):
    """Compute the exact answers of a two-level hierarchy.

    Attributes:
        model: all parameters.
        objective: the objective that the problem is sampled for, and the default of the exact answers.
        l: number of samples of z, for ``ms-nic-dms``.
    """

    model: Hierarchy
    objective: str
    l: int

    @property
    def direct_y(self) -> bool:
        """Whether z is drawn from the mean of y instead of its sample."""
        return self.model.direct_y

    @abstractmethod
    def switched(self, direct_y: bool) -> TwoLevelOracle:
        """Return the same problem with direct-y on or off, sampled in pairs."""

    def exact_bound(self, k: SupportsIndex, l: SupportsIndex | None = None, objective: str | None = None) -> float:
        """Return the expectation of an objective.

        Args:
            k: number of samples of y, or of pairs (y_i, z_i) for ``iwae`` and ``iwae-2level``, which are the same here.
            l: number of samples of z for the two forms of DMS; 1 for all other objectives.
            objective: ``elbo``, ``iwae`` (the default, unless ``under`` chose another), ``iwae-2level``, ``ms-nic-mix``
                (eq. 12), ``ms-nic-dms`` (eq. 15), or ``ms-nic-dms-nested`` (eq. 14).

        Returns:
            The bound in nats.

        Raises:
            NotExact: if k and l are both above 3 in ``ms-nic-dms``.
            GradlabError: if k or l is not an integer of at least 1, the objective is unknown, it combines samples of y
                and z but ``direct_y`` is False (so that each z belongs to its y), or it takes no l.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> round(problem.exact_bound(4), 4), round(problem.exact_bound(4, objective="ms-nic-mix"), 4)
            (-4.9732, -5.1759)
        """
        k, l, objective = self._choose(k, l, objective)
        if objective == "elbo":  # a mean over samples: the same for any number of them
            k = 1
        if objective in PAIRS:
            return moments.bound(two_level_bounds.pairs(self.model, k).nodes, k)
        if objective == NESTED:
            return moments.bound(two_level_bounds.nested(self.model, k).nodes, l)
        return two_level_bounds.bound(two_level_bounds.shared(self.model, k, l), max(k, l)) - math.log(min(k, l))

    def exact_gradient(
        self, k: SupportsIndex, wrt: str = "phi", l: SupportsIndex | None = None, objective: str | None = None
    ) -> float:
        """Return the derivative of ``exact_bound`` with respect to a parameter, at fixed noise.

        Args:
            k: number of samples of y.
            wrt: one of ``parameters``.
            l: number of samples of z for the two forms of DMS.
            objective: as in ``exact_bound``.

        Returns:
            The derivative in nats per unit of ``wrt``.

        Raises:
            NotExact: under the same conditions as ``exact_bound``.
            GradlabError: under the same conditions as ``exact_bound``, or if ``wrt`` is not one of ``parameters``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> round(problem.exact_gradient(4, "y_std"), 4)
            1.3001
        """
        wrt = self.check_wrt(wrt)
        k, l, objective = self._choose(k, l, objective)
        if objective == NESTED:
            case = two_level_bounds.nested(self.model, k, wrt)
            return moments.linear(case.nodes, case.values, l)[0]
        return self._pathwise(k, l, objective, wrt)[0]

    def exact_moments(
        self,
        estimator: str,
        k: SupportsIndex = 1,
        wrt: str = "phi",
        l: SupportsIndex | None = None,
        objective: str | None = None,
    ) -> tuple[float, float]:
        """Return the exact mean and variance of one draw of an estimator.

        Known are ``pathwise`` and ``stl``, which are the same on a box; ``dreg`` and ``dreg-squared`` of independent
        pairs; and ``score``, ``nvil``, ``rws`` and ``vimco``, which are 0 for phi, a and b.

        Args:
            estimator: a name from ``ESTIMATORS``.
            k: number of samples of y.
            wrt: the parameter that the estimator differentiates with respect to.
            l: number of samples of z for the two forms of DMS.
            objective: as in ``exact_bound``.

        Returns:
            Mean and variance of one draw, in nats per unit of ``wrt`` and its square.

        Raises:
            NotExact: if no exact moments are known for this estimator or for eq. 14, or under the same conditions as
                ``exact_bound``.
            GradlabError: under the same conditions as ``exact_gradient``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> mean, variance = problem.exact_moments("pathwise", k=2)
            >>> round(mean, 4), round(variance, 4)
            (3.445, 0.8312)
        """
        wrt = self.check_wrt(wrt)
        k, l, objective = self._choose(k, l, objective)
        if objective == NESTED:
            raise NotExact(f"{NESTED} is a nested expectation that no estimator samples: use ms-nic-dms")
        inference = wrt in INFERENCE

        def pathwise(k: int) -> tuple[float, float]:
            return self._pathwise(k, l, objective, wrt)

        # The score is 0, so stl drops nothing, and estimators that multiply a score are 0 in every draw.
        scored: Moments = (lambda k: (0.0, 0.0)) if inference else pathwise
        table = dict.fromkeys(("pathwise", "stl"), pathwise) | dict.fromkeys(("score", "nvil", "rws"), scored)
        if k > 1 and objective in PAIRS:  # the baseline comes from the other samples, each replaced on its own
            table["vimco"] = scored
        if not inference or objective == "elbo":
            table |= dict.fromkeys(("dreg", "dreg-squared"), pathwise)
        elif objective in PAIRS:
            table |= dict.fromkeys(("dreg", "dreg-squared"), lambda k: self._dreg(k, wrt))
        if estimator not in table:
            raise NotExact(f"no exact moments on TwoLevel ({objective}): {unknown('estimator', estimator, table)}")
        return table[estimator](k)

    def exact_limit(self, objective: str | None = None) -> float:
        """Return the limit of ``exact_bound`` as k (and l) grow: the log evidence *inside the boxes*.

        The ELBO does not depend on k. MIX has one z, so it tends to ``E log E_y[w | z]``.

        Args:
            objective: as in ``exact_bound``.

        Returns:
            The limit in nats.

        Raises:
            GradlabError: under the same conditions as ``exact_bound``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> problem.exact_limit() < problem.evidence()
            True
        """
        _, _, objective = self._choose(1, None, objective)
        if objective == "elbo":
            return self.exact_bound(1, objective="elbo")
        if objective == "ms-nic-mix":
            cases = two_level_bounds.shared(self.model, 2, 1)
            return float(sum(case.p * case.nodes.log_mean_weight() for case in cases))
        return two_level_bounds.pairs(self.model, 2).nodes.log_mean_weight()

    def exact_concentration(self, k: SupportsIndex) -> float:
        """Return ``E sum_i w~_i^2`` for k independent pairs, the expected concentration of the normalised weights.

        Args:
            k: number of pairs.

        Returns:
            A number from 1/k (all weights are equal) to 1 (one pair has all the weight).

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> round(problem.exact_concentration(4), 4)
            0.4772
        """
        k = check_k(k)
        return moments.concentration(two_level_bounds.pairs(self.model, k).nodes, k)

    def evidence(self) -> float:
        """Return the log evidence ``log p(x)``.

        It is larger than ``exact_limit``, because the boxes do not cover the true posterior.

        Returns:
            The log evidence in nats.
        """
        return self.model.evidence()

    def exact_snr(self, k: SupportsIndex = 1) -> pd.DataFrame:
        """Tabulate the SNR of the pathwise gradient for each group of Table 3, without and with direct-y.

        The samples are k independent pairs.

        Args:
            k: number of pairs.

        Returns:
            Columns ``direct_y``, ``group``, ``parameters``, ``dead``, ``snr``, ``mean_norm`` and ``variance_trace``.
            The SNR of a group is the mean of |mean| / std over its parameters; parameters whose gradient never varies
            count as ``dead`` and are left out of the mean.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> table = problem.exact_snr(k=1).set_index("group")
            >>> table.loc["z infer", "snr"].round(3).tolist()  # without and with direct-y
            [1.716, 3.028]
        """
        import pandas as pd

        rows = []
        for direct_y in (False, True):
            problem = self.switched(direct_y)
            for group, names in GROUPS.items():
                moments = [problem.exact_moments("pathwise", k, name) for name in names]
                ratios = [abs(mean) / math.sqrt(variance) for mean, variance in moments if variance > 0]
                rows.append(
                    {
                        "direct_y": direct_y,
                        "group": group,
                        "parameters": len(names),
                        "dead": len(names) - len(ratios),
                        "snr": sum(ratios) / len(ratios) if ratios else math.nan,
                        "mean_norm": math.hypot(*(mean for mean, _ in moments)),
                        "variance_trace": sum(variance for _, variance in moments),
                    }
                )
        return pd.DataFrame(rows)

    def _pathwise(self, k: int, l: int, objective: str, wrt: str) -> tuple[float, float]:
        if objective in SHARED:
            return two_level_bounds.linear(two_level_bounds.shared(self.model, k, l, wrt), max(k, l))
        size, averaged = (1, k) if objective == "elbo" else (k, 1)
        case = two_level_bounds.pairs(self.model, size, wrt)
        mean, variance = moments.linear(case.nodes, case.values, size)
        return mean, variance / averaged

    def _dreg(self, k: int, wrt: str) -> tuple[float, float]:
        case = two_level_bounds.pairs(self.model, k, wrt)
        return moments.squared(case.nodes, case.values, k)

    def _choose(self, k: SupportsIndex, l: SupportsIndex | None, objective: str | None) -> tuple[int, int, str]:
        """Validate k, l and the objective, and fill in the choices of ``under``."""
        l = (self.l if objective is None else 1) if l is None else l
        objective = self.objective if objective is None else objective
        if objective not in (*PAIRS, *SHARED, NESTED):
            raise unknown("objective of TwoLevel:", objective, (*PAIRS, *SHARED, NESTED))
        k, l = check_k(k), whole("l", l, 1, "samples of z")
        if not self.direct_y and objective not in PAIRS:
            raise GradlabError(
                f"{objective} combines samples of y and z, but without direct-y each z is drawn from its y: "
                "use iwae-2level, or direct_y=True"
            )
        if l > 1 and objective not in ("ms-nic-dms", NESTED):
            raise GradlabError(f"l is {l}, but {objective} takes no l: use l = 1, or ms-nic-dms")
        return k, l, objective
