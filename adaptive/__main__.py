"""``python -m adaptive``: simulate, filter and design from the shell.

Example: python -m adaptive simulate --algorithm nlms --mu 0.5 --taps 16 --input ar
--coefficients 0.9 --noise 0.01 --steps 1000 --runs 500 --seed 0 --out results
"""

import sys

from adaptive.command import main

if __name__ == "__main__":
    sys.exit(main())
