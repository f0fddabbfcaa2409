"""What every test process needs: one torch thread, and no verdict on the machine's speed."""

import os

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
