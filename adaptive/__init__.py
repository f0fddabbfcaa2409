"""Adaptive filters, and what theory says of them before they run.

>>> import numpy as np, adaptive
>>> u = np.random.default_rng(0).standard_normal(4000)
>>> d = np.convolve(u, [0.8, 0.4])[:4000]
>>> run = adaptive.lms(u, d, mu=0.05, taps=2)                     # run it
>>> problem = adaptive.WienerProblem.from_data(u, d, taps=2)      # or describe it
>>> curve = adaptive.predict_lms(problem, mu=0.05, steps=4000)    # and predict the run
>>> run.weights.round(3).tolist(), curve.weights[-1].round(3).tolist()
([0.8, 0.4], [0.8, 0.4])

Convention everywhere: w(n+1) = w(n) + mu e*(n) u(n), e the a priori error, newest tap first.
"""

from adaptive.edge import ObservedEdge, StabilityMap, observed_edge, stability_map
from adaptive.ensemble import simulate
from adaptive.filters import (
    affine_projection,
    block_lms,
    frequency_domain_lms,
    leaky_lms,
    lms,
    momentum_lms,
    nlms,
    power_normalized_lms,
    rls,
    sign_data_lms,
    sign_error_lms,
    sign_sign_lms,
    transform_domain_lms,
)
from adaptive.minibatch import (
    LyapunovEdge,
    MinibatchEdges,
    lyapunov_edge,
    minibatch_edge,
    minibatch_edges,
    predict_minibatch,
)
from adaptive.modes import NaturalModes, natural_modes
from adaptive.results import Ensemble, FilterRun, LearningCurve
from adaptive.scenarios import (
    Echo,
    Equalisation,
    NoiseCancelling,
    Prediction,
    SystemIdentification,
    raised_cosine,
)
from adaptive.signals import (
    ARMA,
    AutoRegressive,
    GaussianRegressors,
    Impulsive,
    Recorded,
    Tones,
    white,
)
from adaptive.stability import (
    NlmsBounds,
    StabilityBounds,
    block_bounds,
    leaky_bounds,
    momentum_bounds,
    nlms_bounds,
    stability_bounds,
)
from adaptive.streaming import (
    LMS,
    NLMS,
    RLS,
    AffineProjection,
    BlockLMS,
    FrequencyDomainLMS,
    LeakyLMS,
    MomentumLMS,
    PowerNormalizedLMS,
    SignDataLMS,
    SignErrorLMS,
    SignSignLMS,
    TransformDomainLMS,
)
from adaptive.theory import (
    predict_block_lms,
    predict_leaky_lms,
    predict_lms,
    predict_momentum_lms,
    predict_nlms,
    predict_power_normalized_lms,
)
from adaptive.tracking import OptimalStep, optimal_mu, predict_tracking, tracking_emse
from adaptive.verdict import Verdict, verdict
from adaptive.wiener import WienerProblem

__all__ = [
    "ARMA",
    "LMS",
    "NLMS",
    "RLS",
    "AffineProjection",
    "AutoRegressive",
    "BlockLMS",
    "Echo",
    "Ensemble",
    "Equalisation",
    "FilterRun",
    "FrequencyDomainLMS",
    "GaussianRegressors",
    "Impulsive",
    "LeakyLMS",
    "LearningCurve",
    "LyapunovEdge",
    "MinibatchEdges",
    "MomentumLMS",
    "NaturalModes",
    "NlmsBounds",
    "NoiseCancelling",
    "ObservedEdge",
    "OptimalStep",
    "PowerNormalizedLMS",
    "Prediction",
    "Recorded",
    "SignDataLMS",
    "SignErrorLMS",
    "SignSignLMS",
    "StabilityBounds",
    "StabilityMap",
    "SystemIdentification",
    "Tones",
    "TransformDomainLMS",
    "Verdict",
    "WienerProblem",
    "affine_projection",
    "block_bounds",
    "block_lms",
    "frequency_domain_lms",
    "leaky_bounds",
    "leaky_lms",
    "lms",
    "lyapunov_edge",
    "minibatch_edge",
    "minibatch_edges",
    "momentum_bounds",
    "momentum_lms",
    "natural_modes",
    "nlms",
    "nlms_bounds",
    "observed_edge",
    "optimal_mu",
    "power_normalized_lms",
    "predict_block_lms",
    "predict_leaky_lms",
    "predict_lms",
    "predict_minibatch",
    "predict_momentum_lms",
    "predict_nlms",
    "predict_power_normalized_lms",
    "predict_tracking",
    "raised_cosine",
    "rls",
    "sign_data_lms",
    "sign_error_lms",
    "sign_sign_lms",
    "simulate",
    "stability_bounds",
    "stability_map",
    "tracking_emse",
    "transform_domain_lms",
    "verdict",
    "white",
]
