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
        "cnnbridge needs torch, which is not installed. In a checkout: pip install '.[cnn]'",
        name=error.name,
    ) from error
del _torch

from adaptive import __version__ as __version__
from cnnbridge.inspection.inspector import inspect
from cnnbridge.layers.capture import capture
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import group_weights, unfold_patches
from cnnbridge.learning.compare import compare
from cnnbridge.learning.degree import degree
from cnnbridge.learning.layer import LayerTask, observe_layer, predict_layer
from cnnbridge.learning.mode_curvature import mode_curvature
from cnnbridge.learning.network_task import NetworkTask, sharpness
from cnnbridge.learning.problem import layer_problem, layer_problems, learning_rate_bounds
from cnnbridge.learning.replay import replay
from cnnbridge.learning.sgd import SGD
from cnnbridge.monitor.monitor import Monitor
from cnnbridge.normalization.nlms import first_step_is_nlms, nlms_departures
from cnnbridge.normalization.parts import SplitBatchNorm, convert_batch_norm
from cnnbridge.normalization.spectra import compare_normalizations, patch_moments
from cnnbridge.statistics.autocorrelation import patch_autocorrelation
from cnnbridge.statistics.sampled import sampled_autocorrelation
from cnnbridge.statistics.spectrum import (
    PatchOperator,
    extreme_eigenvalues,
    full_spectrum,
    spectral_density,
)

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
    "inspect",
    "layer_problem",
    "layer_problems",
    "learning_rate_bounds",
    "mode_curvature",
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
