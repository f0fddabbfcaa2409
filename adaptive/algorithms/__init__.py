"""The algorithms: one file holds a member's update, its bounds, its learning curve, their sources.

An algorithm is a frozen value, such as ``NLMS(mu=0.5)``; the functions that take one need no list
of names. To add one, write its file and export it here: docs/add-a-filter.md walks through it.
"""

from __future__ import annotations

from typing import Any

from adaptive.algorithms.base import Algorithm, Regularisation, predict, run, setting
from adaptive.algorithms.filtered import (
    FilteredXLMS,
    FilteredXNLMS,
    filtered_x_lms,
    filtered_x_nlms,
)
from adaptive.algorithms.fourth import (
    LeastMeanFourth,
    MixedNormLMS,
    least_mean_fourth,
    mixed_norm_lms,
)
from adaptive.algorithms.frequency import FrequencyDomainLMS, frequency_domain_lms
from adaptive.algorithms.gradient import StochasticGradient
from adaptive.algorithms.leaky import LeakyLMS, leaky_lms
from adaptive.algorithms.leaky_nlms import LeakyNLMS, leaky_nlms
from adaptive.algorithms.lms import (
    LMS,
    BlockLMS,
    SignDataLMS,
    SignErrorLMS,
    SignSignLMS,
    block_lms,
    lms,
    predict_lms,
    sign_data_lms,
    sign_error_lms,
    sign_sign_lms,
)
from adaptive.algorithms.momentum import MomentumLMS, momentum_lms
from adaptive.algorithms.newton import LMSNewton, lms_newton
from adaptive.algorithms.nlms import NLMS, nlms, predict_nlms
from adaptive.algorithms.power import (
    PowerNormalizedLMS,
    TransformDomainLMS,
    power_normalized_lms,
    transform_domain_lms,
)
from adaptive.algorithms.projection import AffineProjection, affine_projection
from adaptive.algorithms.proportionate import (
    IPNLMS,
    ProportionateAffineProjection,
    ipnlms,
    proportionate_affine_projection,
)
from adaptive.algorithms.rls import RLS, rls
from adaptive.algorithms.variable import (
    GNGD,
    SetMembershipNLMS,
    VariableStepNLMS,
    gngd,
    set_membership_nlms,
    variable_step_nlms,
)
from adaptive.checks import choice, instance

ALGORITHMS: tuple[type[Algorithm], ...] = (
    LMS,
    NLMS,
    LeakyLMS,
    LeakyNLMS,
    SignErrorLMS,
    SignDataLMS,
    SignSignLMS,
    MomentumLMS,
    BlockLMS,
    PowerNormalizedLMS,
    TransformDomainLMS,
    AffineProjection,
    IPNLMS,
    ProportionateAffineProjection,
    RLS,
    FrequencyDomainLMS,
    MixedNormLMS,
    LeastMeanFourth,
    VariableStepNLMS,
    SetMembershipNLMS,
    GNGD,
    LMSNewton,
    FilteredXLMS,
    FilteredXNLMS,
)


def names() -> tuple[str, ...]:
    """Names of all algorithms, as ``simulate`` and the command line accept them."""
    return tuple(kind.name for kind in ALGORITHMS)


def named(name: str, *, mu: float | None = None, **settings: Any) -> Algorithm:
    """The algorithm of a name, with its settings.

    Raises
    ------
    ValueError : no algorithm of that name, or settings out of range.
    TypeError : mu missing or out of place; a setting that the algorithm does not have, or lacks.

    Examples
    --------
    >>> named("leaky_lms", mu=0.1, leakage=0.5)
    LeakyLMS(mu=0.1, leakage=0.5)
    """
    choice("algorithm", name, names())
    kind = next(kind for kind in ALGORITHMS if kind.name == name)
    if mu is not None and not kind.has_step_size():
        raise TypeError(f"mu must be left out for {name}, which has no step size; got {mu}")
    if mu is None and kind.has_step_size():
        raise TypeError(f"mu must be given for {name}")
    known = kind.settings()
    for setting_name in settings:
        if setting_name not in known:
            own = ", ".join(known) or "none"
            raise TypeError(f"{setting_name} is no setting of {name}, whose settings are: {own}")
    for missing in (n for n in known if n not in settings and kind.requires(n)):
        raise TypeError(f"{missing} must be given for {name}")
    return kind(**settings) if mu is None else kind(**{"mu": mu, **settings})


def without_step(algorithm: Algorithm | str, options: dict[str, Any]) -> Algorithm:
    """An algorithm whose step size is to be found: a value, or a name and the other settings.

    Raises
    ------
    ValueError, TypeError : as :func:`named`; settings beside a value, which holds its own.

    Examples
    --------
    >>> without_step("leaky_lms", {"leakage": 0.5})
    LeakyLMS(mu=1.0, leakage=0.5)
    """
    if isinstance(algorithm, str):
        kind = next((kind for kind in ALGORITHMS if kind.name == algorithm), None)
        mu = None if kind is not None and not kind.has_step_size() else 1.0
        return named(algorithm, mu=mu, **options)
    if options:
        raise TypeError(
            f"{', '.join(options)} must be left out where algorithm is a value, which holds them"
        )
    return instance("algorithm", algorithm, Algorithm)


__all__ = [
    "ALGORITHMS",
    "GNGD",
    "IPNLMS",
    "LMS",
    "NLMS",
    "RLS",
    "AffineProjection",
    "Algorithm",
    "BlockLMS",
    "FilteredXLMS",
    "FilteredXNLMS",
    "FrequencyDomainLMS",
    "LMSNewton",
    "LeakyLMS",
    "LeakyNLMS",
    "LeastMeanFourth",
    "MixedNormLMS",
    "MomentumLMS",
    "PowerNormalizedLMS",
    "ProportionateAffineProjection",
    "Regularisation",
    "SetMembershipNLMS",
    "SignDataLMS",
    "SignErrorLMS",
    "SignSignLMS",
    "StochasticGradient",
    "TransformDomainLMS",
    "VariableStepNLMS",
    "affine_projection",
    "block_lms",
    "filtered_x_lms",
    "filtered_x_nlms",
    "frequency_domain_lms",
    "gngd",
    "ipnlms",
    "leaky_lms",
    "leaky_nlms",
    "least_mean_fourth",
    "lms",
    "lms_newton",
    "mixed_norm_lms",
    "momentum_lms",
    "named",
    "names",
    "nlms",
    "power_normalized_lms",
    "predict",
    "predict_lms",
    "predict_nlms",
    "proportionate_affine_projection",
    "rls",
    "run",
    "set_membership_nlms",
    "setting",
    "sign_data_lms",
    "sign_error_lms",
    "sign_sign_lms",
    "transform_domain_lms",
    "variable_step_nlms",
    "without_step",
]
