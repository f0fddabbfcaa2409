"""Records that functions and tasks of ``cnnbridge`` return; users receive them and never make them.

Each is documented where it is made. They are all importable from here, for annotations and
``isinstance``.
"""

from cnnbridge.inspection.record import (
    Inspection,
    LayerCurvature,
    LayerHorizon,
    LayerInspection,
    Sharpness,
)
from cnnbridge.layers.capture import Tape
from cnnbridge.learning.audit import Audit
from cnnbridge.learning.compare import Comparison
from cnnbridge.learning.degree import Degree
from cnnbridge.learning.minibatch import (
    MinibatchComparison,
    MinibatchEdges,
    MinibatchObservation,
    MinibatchPrediction,
    MinibatchTask,
)
from cnnbridge.learning.mode_curvature import ModeCurvature
from cnnbridge.learning.records import (
    DirectionModes,
    Edge,
    KroneckerModes,
    LayerPrediction,
    LearningRateBounds,
    Observation,
    Prediction,
    TapModes,
)
from cnnbridge.learning.replay import Replay, Stream
from cnnbridge.learning.sharpness import SharpnessTrack
from cnnbridge.monitor.reading import LayerReading
from cnnbridge.normalization.bounds import TraceCeiling
from cnnbridge.normalization.nlms import DepartureGrid, FirstStep, NlmsDeparture
from cnnbridge.normalization.spectra import NormalizedSpectrum, PatchMoments
from cnnbridge.statistics.sampled import SampledAutocorrelation
from cnnbridge.statistics.spectrum import Extremes, SpectralDensity, Spectrum

__all__ = [
    "Audit",
    "Comparison",
    "Degree",
    "DepartureGrid",
    "DirectionModes",
    "Edge",
    "Extremes",
    "FirstStep",
    "Inspection",
    "KroneckerModes",
    "LayerCurvature",
    "LayerHorizon",
    "LayerInspection",
    "LayerPrediction",
    "LayerReading",
    "LearningRateBounds",
    "MinibatchComparison",
    "MinibatchEdges",
    "MinibatchObservation",
    "MinibatchPrediction",
    "MinibatchTask",
    "ModeCurvature",
    "NlmsDeparture",
    "NormalizedSpectrum",
    "Observation",
    "PatchMoments",
    "Prediction",
    "Replay",
    "SampledAutocorrelation",
    "Sharpness",
    "SharpnessTrack",
    "SpectralDensity",
    "Spectrum",
    "Stream",
    "TapModes",
    "Tape",
    "TraceCeiling",
]
