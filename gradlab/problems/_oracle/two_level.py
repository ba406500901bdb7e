"""The exact answers of :class:`gradlab.problems.TwoLevel`: bounds, gradients, moments and SNR by group.

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
    """The exact answers, given the model.

    Attributes:
        model: all parameters.
        objective: the objective that the problem is sampled for, and the default of the exact answers.
        l: samples of z, for ``ms-nic-dms``.
    """

    model: Hierarchy
    objective: str
    l: int

    @property
    def direct_y(self) -> bool:
        """Whether z is drawn from the mean of y."""
        return self.model.direct_y

    @abstractmethod
    def switched(self, direct_y: bool) -> TwoLevelOracle:
        """Return the problem with direct-y on or off, sampled in pairs."""

    def exact_bound(self, k: SupportsIndex, l: SupportsIndex | None = None, objective: str | None = None) -> float:
        """Return E of the objective, nats.

        Args:
            k: samples of y; pairs (y_i, z_i) for ``iwae`` and ``iwae-2level``, which are the same here.
            l: samples of z, for the two forms of DMS (otherwise 1).
            objective: ``elbo``, ``iwae`` (the default, unless ``under`` chose another), ``iwae-2level``,
                ``ms-nic-mix`` (eq. 12), ``ms-nic-dms`` (eq. 15), or ``ms-nic-dms-nested`` (eq. 14).

        Raises:
            NotExact: ms-nic-dms with both k and l above 3.
            GradlabError: k or l is not an integer of at least 1, or an objective that is unknown, or ruled out by
                direct_y = False (which pairs each z with its y) or by l.
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
        """Return the derivative of ``exact_bound`` with respect to a parameter, at fixed noises.

        Raises:
            NotExact: as ``exact_bound``.
            GradlabError: as ``exact_bound``, or ``wrt`` is not one of ``parameters``.
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
        """Return mean and variance of one draw of an estimator of the gradient with respect to ``wrt``.

        ``pathwise``, which is ``stl`` on a box; ``dreg`` and ``dreg-squared`` of independent pairs; ``score``,
        ``nvil``, ``rws`` and ``vimco`` (0 for phi, a and b).

        Raises:
            NotExact: no exact moments are known for this estimator or for eq. 14; or as ``exact_bound``.
            GradlabError: as ``exact_gradient``.
        """
        wrt = self.check_wrt(wrt)
        k, l, objective = self._choose(k, l, objective)
        if objective == NESTED:
            raise NotExact(f"{NESTED} is a nested expectation that no estimator samples: take ms-nic-dms")
        inference = wrt in INFERENCE

        def pathwise(k: int) -> tuple[float, float]:
            return self._pathwise(k, l, objective, wrt)

        # The score is 0: stl drops nothing, and estimators that multiply a score are 0 in every draw.
        scored: Moments = (lambda k: (0.0, 0.0)) if inference else pathwise
        table = dict.fromkeys(("pathwise", "stl"), pathwise) | dict.fromkeys(("score", "nvil", "rws"), scored)
        if k > 1 and objective in PAIRS:  # its baseline is made of the other samples, each replaced alone
            table["vimco"] = scored
        if not inference or objective == "elbo":
            table |= dict.fromkeys(("dreg", "dreg-squared"), pathwise)
        elif objective in PAIRS:
            table |= dict.fromkeys(("dreg", "dreg-squared"), lambda k: self._dreg(k, wrt))
        if estimator not in table:
            raise NotExact(f"no exact moments on TwoLevel ({objective}): {unknown('estimator', estimator, table)}")
        return table[estimator](k)

    def exact_limit(self, objective: str | None = None) -> float:
        """Return the limit of ``exact_bound`` as k (and l) grow, nats: the log evidence *inside the boxes*.

        The ELBO does not depend on k. MIX has one z and tends to ``E log E_y[w | z]``.

        Raises:
            GradlabError: as ``exact_bound``.
        """
        _, _, objective = self._choose(1, None, objective)
        if objective == "elbo":
            return self.exact_bound(1, objective="elbo")
        if objective == "ms-nic-mix":
            cases = two_level_bounds.shared(self.model, 2, 1)
            return float(sum(case.p * case.nodes.log_mean_weight() for case in cases))
        return two_level_bounds.pairs(self.model, 2).nodes.log_mean_weight()

    def exact_concentration(self, k: SupportsIndex) -> float:
        """Return ``E sum_i w~_i^2`` of k independent pairs; see :meth:`Problem.exact_concentration`."""
        k = check_k(k)
        return moments.concentration(two_level_bounds.pairs(self.model, k).nodes, k)

    def evidence(self) -> float:
        """Return ``log p(x)``, nats: above ``exact_limit``, since the boxes do not cover the true posterior."""
        return self.model.evidence()

    def exact_snr(self, k: SupportsIndex = 1) -> pd.DataFrame:
        """Tabulate the pathwise gradient's SNR by group of Table 3, without and with direct-y; k independent pairs.

        Returns:
            Columns direct_y, group, parameters, dead, snr, mean_norm, variance_trace: the SNR of a group is the mean
            over its parameters of |mean| / std; parameters whose gradient never moves are ``dead`` and left out.

        Raises:
            GradlabError: k is not an integer of at least 1.
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
        """Valid (k, l, objective), with what ``under`` chose put in."""
        l = (self.l if objective is None else 1) if l is None else l
        objective = self.objective if objective is None else objective
        if objective not in (*PAIRS, *SHARED, NESTED):
            raise unknown("objective of TwoLevel:", objective, (*PAIRS, *SHARED, NESTED))
        k, l = check_k(k), whole("l", l, 1, "samples of z")
        if not self.direct_y and objective not in PAIRS:
            raise GradlabError(
                f"{objective} combines samples of y and z that are independent, but without direct-y each z is drawn "
                "from its y: use iwae-2level, or direct_y=True"
            )
        if l > 1 and objective not in ("ms-nic-dms", NESTED):
            raise GradlabError(f"{objective} takes no l, but l = {l}: use l = 1, or ms-nic-dms")
        return k, l, objective
