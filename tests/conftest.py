"""One thread per test process: many threads on small convolutions fight, up to 100 times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
