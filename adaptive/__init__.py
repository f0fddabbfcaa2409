"""Adaptive filters, and the theory that predicts them before they run.

>>> import numpy as np, adaptive
>>> u = np.random.default_rng(0).standard_normal(4000)
>>> d = np.convolve(u, [0.8, 0.4])[:4000]
>>> run = adaptive.lms(u, d, mu=0.05, taps=2)                     # run it
>>> problem = adaptive.WienerProblem.from_data(u, d, taps=2)      # or describe it
>>> curve = adaptive.predict_lms(problem, mu=0.05, steps=4000)    # and predict the run
>>> run.weights.round(3).tolist(), curve.weights[-1].round(3).tolist()
([0.8, 0.4], [0.8, 0.4])

Every algorithm is also a value, which ``run``, ``predict``, ``simulate``, ``observed_edge`` and
``stability_map`` accept:

>>> alg = adaptive.NLMS(mu=0.5)
>>> adaptive.run(alg, u, d, taps=2).weights.round(3).tolist()
[0.8, 0.4]

Convention everywhere: w(n+1) = w(n) + mu e*(n) u(n), e the a priori error, newest tap first.

Further inputs are in ``adaptive.signals``, further scenarios in ``adaptive.scenarios``, training on
finite data sets in ``adaptive.minibatch``, moving targets in ``adaptive.tracking``, figures of
merit such as ERLE in ``adaptive.measures``, double-talk detectors in ``adaptive.double_talk``, the
records that functions return in ``adaptive.results``.
"""

from adaptive import double_talk, measures, minibatch, results, scenarios, signals, tracking
from adaptive.algorithms import (
    GNGD,
    IPNLMS,
    LMS,
    NLMS,
    RLS,
    AffineProjection,
    BlockLMS,
    FilteredXLMS,
    FilteredXNLMS,
    FrequencyDomainLMS,
    LeakyLMS,
    LeakyNLMS,
    LeastMeanFourth,
    LMSNewton,
    MixedNormLMS,
    MomentumLMS,
    PowerNormalizedLMS,
    ProportionateAffineProjection,
    SetMembershipNLMS,
    SignDataLMS,
    SignErrorLMS,
    SignSignLMS,
    TransformDomainLMS,
    VariableStepNLMS,
    affine_projection,
    block_lms,
    filtered_x_lms,
    filtered_x_nlms,
    frequency_domain_lms,
    gngd,
    ipnlms,
    leaky_lms,
    leaky_nlms,
    least_mean_fourth,
    lms,
    lms_newton,
    mixed_norm_lms,
    momentum_lms,
    nlms,
    power_normalized_lms,
    predict,
    predict_lms,
    predict_nlms,
    proportionate_affine_projection,
    rls,
    run,
    set_membership_nlms,
    sign_data_lms,
    sign_error_lms,
    sign_sign_lms,
    transform_domain_lms,
    variable_step_nlms,
)
from adaptive.bounds import stability_bounds
from adaptive.delays import estimate_delay
from adaptive.design import design_step
from adaptive.edge import observed_edge, stability_map
from adaptive.ensemble import simulate
from adaptive.modes import natural_modes
from adaptive.scenarios import SystemIdentification
from adaptive.signals import AutoRegressive, GaussianRegressors, white
from adaptive.verdict import verdict
from adaptive.walkers import delay_line_edge
from adaptive.wiener import WienerProblem, autocorrelation

__all__ = [
    "GNGD",
    "IPNLMS",
    "LMS",
    "NLMS",
    "RLS",
    "AffineProjection",
    "AutoRegressive",
    "BlockLMS",
    "FilteredXLMS",
    "FilteredXNLMS",
    "FrequencyDomainLMS",
    "GaussianRegressors",
    "LMSNewton",
    "LeakyLMS",
    "LeakyNLMS",
    "LeastMeanFourth",
    "MixedNormLMS",
    "MomentumLMS",
    "PowerNormalizedLMS",
    "ProportionateAffineProjection",
    "SetMembershipNLMS",
    "SignDataLMS",
    "SignErrorLMS",
    "SignSignLMS",
    "SystemIdentification",
    "TransformDomainLMS",
    "VariableStepNLMS",
    "WienerProblem",
    "affine_projection",
    "autocorrelation",
    "block_lms",
    "delay_line_edge",
    "design_step",
    "double_talk",
    "estimate_delay",
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
    "measures",
    "minibatch",
    "mixed_norm_lms",
    "momentum_lms",
    "natural_modes",
    "nlms",
    "observed_edge",
    "power_normalized_lms",
    "predict",
    "predict_lms",
    "predict_nlms",
    "proportionate_affine_projection",
    "results",
    "rls",
    "run",
    "scenarios",
    "set_membership_nlms",
    "sign_data_lms",
    "sign_error_lms",
    "sign_sign_lms",
    "signals",
    "simulate",
    "stability_bounds",
    "stability_map",
    "tracking",
    "transform_domain_lms",
    "variable_step_nlms",
    "verdict",
    "white",
]
__version__ = "0.2.0"
