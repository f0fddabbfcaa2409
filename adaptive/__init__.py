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

from adaptive.ensemble import simulate
from adaptive.filters import lms, nlms
from adaptive.modes import NaturalModes, natural_modes
from adaptive.results import Ensemble, FilterRun, LearningCurve
from adaptive.signals import AutoRegressive, GaussianRegressors, SystemIdentification, white
from adaptive.stability import StabilityBounds, stability_bounds
from adaptive.theory import predict_lms
from adaptive.wiener import WienerProblem

__all__ = [
    "AutoRegressive",
    "Ensemble",
    "FilterRun",
    "GaussianRegressors",
    "LearningCurve",
    "NaturalModes",
    "StabilityBounds",
    "SystemIdentification",
    "WienerProblem",
    "lms",
    "natural_modes",
    "nlms",
    "predict_lms",
    "simulate",
    "stability_bounds",
    "white",
]
