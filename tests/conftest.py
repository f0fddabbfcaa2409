"""What every test process needs: one torch thread, and no verdict on the machine's speed."""

import os

from hypothesis import HealthCheck, settings

# many threads on small convolutions fight, up to 100 times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a busy machine is no failure: timings are never asserted
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
