"""What every test needs: one torch thread, known draws, no verdict on the machine's speed."""

import os
import random
import sys

import numpy as np
from hypothesis import HealthCheck, settings

# many threads on small convolutions fight, up to 100 times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a busy machine is no failure: timings are never asserted. Where CI is set, the same examples come
# every time, so that a change is judged by itself; elsewhere every run looks at new ones.
settings.register_profile(
    "steady",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("steady")


def pytest_runtest_setup():
    """Start the global generators at one seed, whichever tests ran before on this worker.

    A test that draws from them would otherwise look at other data whenever a test is added, and a
    statistical bound would fail once in a while for no fault of the change at hand.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - a library's own draws come from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
