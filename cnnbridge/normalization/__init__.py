"""What a normalization does to the spectrum that a layer learns on: transforms and bounds.

``cnnbridge`` itself has what users call first: ``SplitBatchNorm``, ``convert_batch_norm``,
``compare_normalizations``, ``patch_moments``, ``first_step_is_nlms`` and ``nlms_departures``.
"""

from cnnbridge.normalization.bounds import (
    interlacing_bounds,
    ostrowski_interval,
    pixel_weights,
    trace_ceiling,
    van_der_sluis_factor,
)
from cnnbridge.normalization.nlms import nlms_departure
from cnnbridge.normalization.parts import NORMALIZATION_VARIANTS, channel_divisor
from cnnbridge.normalization.spectra import (
    NORMALIZATIONS,
    weight_standardization,
    zca_whitening,
)

__all__ = [
    "NORMALIZATIONS",
    "NORMALIZATION_VARIANTS",
    "channel_divisor",
    "interlacing_bounds",
    "nlms_departure",
    "ostrowski_interval",
    "pixel_weights",
    "trace_ceiling",
    "van_der_sluis_factor",
    "weight_standardization",
    "zca_whitening",
]
