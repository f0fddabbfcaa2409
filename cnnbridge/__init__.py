"""A convolutional layer of a torch network as the LMS problem that it is.

Each output channel of a conv layer is a linear combiner, and the patches under its kernel are the
regressors. ``patch_autocorrelation`` and ``layer_problem`` turn a layer and its input into the
second-order statistics that ``adaptive`` works on; ``predict_layer`` says how gradient descent
will move the layer, ``observe_layer`` trains it in torch, and ``compare`` sets one against the
other. ``LayerTask`` does these for one layer again and again, and computes its statistics once;
``NetworkTask`` does them for a layer in its place in a network, and for all layers together.
``capture`` records the input of a layer inside a network, ``Monitor`` reads layers during training.

Results are records, all importable from ``cnnbridge.results``. ``cnnbridge.normalization`` has the
spectra and bounds behind a normalization, ``cnnbridge.plotting`` the figures.

Learning rates are in torch's own units: ``torch.optim.SGD`` on ``MSELoss(reduction="mean")``.

>>> import torch
>>> _ = torch.manual_seed(0)
>>> conv = torch.nn.Conv2d(2, 3, 3)
>>> x, target = torch.randn(8, 2, 9, 9).double(), torch.randn(8, 3, 7, 7).double()
>>> prediction = predict_layer(conv, x, target, lr=0.5, steps=100)
>>> observation = observe_layer(conv, x, target, lr=0.5, steps=100)
>>> compare(prediction, observation).max_mode_error < 1e-9
True
"""

try:
    import torch as _torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "cnnbridge needs torch, which is not installed: pip install 'naturalmodes[cnn]'",
        name=error.name,
    ) from error
del _torch

from cnnbridge.layers.capture import Tape as Tape
from cnnbridge.layers.capture import capture
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.geometry import output_size as output_size
from cnnbridge.layers.patches import group_weights, unfold_patches
from cnnbridge.layers.patches import taps_per_output as taps_per_output
from cnnbridge.learning.audit import Audit as Audit
from cnnbridge.learning.compare import Comparison as Comparison
from cnnbridge.learning.compare import compare
from cnnbridge.learning.degree import Degree as Degree
from cnnbridge.learning.degree import degree
from cnnbridge.learning.functions import EdgeObservation as EdgeObservation
from cnnbridge.learning.functions import InPlaceComparison as InPlaceComparison
from cnnbridge.learning.functions import LayerObservation as LayerObservation
from cnnbridge.learning.functions import NetworkObservation as NetworkObservation
from cnnbridge.learning.functions import NetworkPrediction as NetworkPrediction
from cnnbridge.learning.functions import audit as audit
from cnnbridge.learning.functions import bisect_edge as bisect_edge
from cnnbridge.learning.functions import compare_in_place as compare_in_place
from cnnbridge.learning.functions import observe_layer as observe_layer
from cnnbridge.learning.functions import observe_network as observe_network
from cnnbridge.learning.functions import predict_in_place as predict_in_place
from cnnbridge.learning.functions import predict_network as predict_network
from cnnbridge.learning.functions import track_sharpness as track_sharpness
from cnnbridge.learning.layer import LayerTask, predict_layer
from cnnbridge.learning.network_task import NetworkTask, sharpness
from cnnbridge.learning.problem import layer_problem, layer_problems, learning_rate_bounds
from cnnbridge.learning.records import LayerPrediction as LayerPrediction
from cnnbridge.learning.records import LearningRateBounds as LearningRateBounds
from cnnbridge.learning.replay import Replay as Replay
from cnnbridge.learning.replay import Stream as Stream
from cnnbridge.learning.replay import replay
from cnnbridge.learning.sgd import SGD
from cnnbridge.learning.sharpness import SharpnessTrack as SharpnessTrack
from cnnbridge.monitor.lightning import lightning_callback as lightning_callback
from cnnbridge.monitor.monitor import Monitor
from cnnbridge.monitor.reading import LayerReading as LayerReading
from cnnbridge.normalization.bounds import TraceCeiling as TraceCeiling
from cnnbridge.normalization.bounds import interlacing_bounds as interlacing_bounds
from cnnbridge.normalization.bounds import ostrowski_interval as ostrowski_interval
from cnnbridge.normalization.bounds import pixel_weights as pixel_weights
from cnnbridge.normalization.bounds import trace_ceiling as trace_ceiling
from cnnbridge.normalization.bounds import van_der_sluis_factor as van_der_sluis_factor
from cnnbridge.normalization.nlms import DepartureGrid as DepartureGrid
from cnnbridge.normalization.nlms import FirstStep as FirstStep
from cnnbridge.normalization.nlms import NlmsDeparture as NlmsDeparture
from cnnbridge.normalization.nlms import first_step_is_nlms, nlms_departures
from cnnbridge.normalization.nlms import nlms_departure as nlms_departure
from cnnbridge.normalization.parts import NORMALIZATION_VARIANTS as NORMALIZATION_VARIANTS
from cnnbridge.normalization.parts import SplitBatchNorm, convert_batch_norm
from cnnbridge.normalization.parts import channel_divisor as channel_divisor
from cnnbridge.normalization.spectra import NORMALIZATIONS as NORMALIZATIONS
from cnnbridge.normalization.spectra import NormalizedSpectrum as NormalizedSpectrum
from cnnbridge.normalization.spectra import PatchMoments as PatchMoments
from cnnbridge.normalization.spectra import compare_normalizations, patch_moments
from cnnbridge.normalization.spectra import weight_standardization as weight_standardization
from cnnbridge.normalization.spectra import zca_whitening as zca_whitening
from cnnbridge.statistics.autocorrelation import choose_method as choose_method
from cnnbridge.statistics.autocorrelation import patch_autocorrelation
from cnnbridge.statistics.sampled import SampledAutocorrelation as SampledAutocorrelation
from cnnbridge.statistics.sampled import sampled_autocorrelation
from cnnbridge.statistics.spectrum import Extremes as Extremes
from cnnbridge.statistics.spectrum import (
    PatchOperator,
    extreme_eigenvalues,
    full_spectrum,
    spectral_density,
)
from cnnbridge.statistics.spectrum import SpectralDensity as SpectralDensity
from cnnbridge.statistics.spectrum import Spectrum as Spectrum

__all__ = [
    "SGD",
    "Geometry",
    "LayerTask",
    "Monitor",
    "NetworkTask",
    "PatchOperator",
    "SplitBatchNorm",
    "capture",
    "compare",
    "compare_normalizations",
    "convert_batch_norm",
    "degree",
    "extreme_eigenvalues",
    "first_step_is_nlms",
    "full_spectrum",
    "group_weights",
    "layer_problem",
    "layer_problems",
    "learning_rate_bounds",
    "nlms_departures",
    "observe_layer",
    "patch_autocorrelation",
    "patch_moments",
    "predict_layer",
    "replay",
    "sampled_autocorrelation",
    "sharpness",
    "spectral_density",
    "unfold_patches",
]
