"""A convolutional layer of a torch network as the LMS problem that it is.

Each output channel of a conv layer is a linear combiner, and the patches under its kernel are the
regressors. ``patch_autocorrelation`` and ``layer_problem`` turn a layer and its input into the
second-order statistics that ``adaptive`` works on; ``predict_layer`` says how gradient descent
will move the layer, ``observe_layer`` trains it in torch, and ``compare`` sets one against the
other. ``capture`` records the input of a layer inside a network.

Learning rates are in torch's own units: ``torch.optim.SGD`` on ``MSELoss(reduction="mean")``.

>>> import torch
>>> _ = torch.manual_seed(0)
>>> conv = torch.nn.Conv2d(2, 3, 3)
>>> x, target = torch.randn(8, 2, 9, 9).double(), torch.randn(8, 3, 7, 7).double()
>>> prediction = predict_layer(conv, x, target, lr=0.5, steps=100)
>>> observation = observe_layer(conv, x, target, lr=0.5, steps=100, basis=prediction)
>>> compare(prediction, observation).max_mode_error < 1e-9
True
"""

from cnnbridge.layers.capture import Tape, capture
from cnnbridge.layers.geometry import Geometry, output_size
from cnnbridge.layers.patches import group_weights, taps_per_output, unfold_patches
from cnnbridge.learning.audit import Audit, audit
from cnnbridge.learning.compare import Comparison, compare
from cnnbridge.learning.degree import Degree, degree
from cnnbridge.learning.layer import LayerPrediction, predict_layer
from cnnbridge.learning.minibatch import (
    LayerEdges,
    MinibatchComparison,
    MinibatchEdgeObservation,
    MinibatchObservation,
    MinibatchPrediction,
    bisect_minibatch_edge,
    compare_minibatch,
    layer_edges,
    observe_layer_minibatch,
    predict_layer_minibatch,
)
from cnnbridge.learning.network import (
    NetworkObservation,
    NetworkPrediction,
    observe_network,
    predict_network,
)
from cnnbridge.learning.observe import EdgeObservation, LayerObservation, bisect_edge, observe_layer
from cnnbridge.learning.one_layer import InPlaceComparison, compare_in_place, predict_in_place
from cnnbridge.learning.problem import (
    LearningRateBounds,
    layer_problem,
    layer_problems,
    learning_rate_bounds,
    lr_from_mu,
    mu_from_lr,
)
from cnnbridge.learning.replay import Replay, Stream, record_stream, replay
from cnnbridge.learning.sharpness import SharpnessTrack, sharpness, track_sharpness
from cnnbridge.monitor.lightning import lightning_callback
from cnnbridge.monitor.monitor import Monitor
from cnnbridge.monitor.reading import LayerReading
from cnnbridge.normalization.bounds import (
    TraceCeiling,
    interlacing_bounds,
    ostrowski_interval,
    pixel_weights,
    trace_ceiling,
    van_der_sluis_factor,
)
from cnnbridge.normalization.nlms import (
    DepartureGrid,
    FirstStep,
    NlmsDeparture,
    first_step_is_nlms,
    nlms_departure,
    nlms_departures,
)
from cnnbridge.normalization.parts import (
    NORMALIZATION_VARIANTS,
    SplitBatchNorm,
    channel_divisor,
    convert_batch_norm,
)
from cnnbridge.normalization.spectra import (
    NORMALIZATIONS,
    NormalizedSpectrum,
    PatchMoments,
    compare_normalizations,
    patch_moments,
    weight_standardization,
    zca_whitening,
)
from cnnbridge.statistics.autocorrelation import choose_method, patch_autocorrelation
from cnnbridge.statistics.sampled import SampledAutocorrelation, sampled_autocorrelation
from cnnbridge.statistics.spectrum import (
    Extremes,
    PatchOperator,
    SpectralDensity,
    Spectrum,
    extreme_eigenvalues,
    full_spectrum,
    spectral_density,
)

__all__ = [
    "NORMALIZATIONS",
    "NORMALIZATION_VARIANTS",
    "Audit",
    "Comparison",
    "Degree",
    "DepartureGrid",
    "EdgeObservation",
    "Extremes",
    "FirstStep",
    "Geometry",
    "InPlaceComparison",
    "LayerEdges",
    "LayerObservation",
    "LayerPrediction",
    "LayerReading",
    "LearningRateBounds",
    "MinibatchComparison",
    "MinibatchEdgeObservation",
    "MinibatchObservation",
    "MinibatchPrediction",
    "Monitor",
    "NetworkObservation",
    "NetworkPrediction",
    "NlmsDeparture",
    "NormalizedSpectrum",
    "PatchMoments",
    "PatchOperator",
    "Replay",
    "SampledAutocorrelation",
    "SharpnessTrack",
    "SpectralDensity",
    "Spectrum",
    "SplitBatchNorm",
    "Stream",
    "Tape",
    "TraceCeiling",
    "audit",
    "bisect_edge",
    "bisect_minibatch_edge",
    "capture",
    "channel_divisor",
    "choose_method",
    "compare",
    "compare_in_place",
    "compare_minibatch",
    "compare_normalizations",
    "convert_batch_norm",
    "degree",
    "extreme_eigenvalues",
    "first_step_is_nlms",
    "full_spectrum",
    "group_weights",
    "interlacing_bounds",
    "layer_edges",
    "layer_problem",
    "layer_problems",
    "learning_rate_bounds",
    "lightning_callback",
    "lr_from_mu",
    "mu_from_lr",
    "nlms_departure",
    "nlms_departures",
    "observe_layer",
    "observe_layer_minibatch",
    "observe_network",
    "ostrowski_interval",
    "output_size",
    "patch_autocorrelation",
    "patch_moments",
    "pixel_weights",
    "predict_in_place",
    "predict_layer",
    "predict_layer_minibatch",
    "predict_network",
    "record_stream",
    "replay",
    "sampled_autocorrelation",
    "sharpness",
    "spectral_density",
    "taps_per_output",
    "trace_ceiling",
    "track_sharpness",
    "unfold_patches",
    "van_der_sluis_factor",
    "weight_standardization",
    "zca_whitening",
]
