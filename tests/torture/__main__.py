"""``make torture``: strike at runs at random moments; exit 1 when anything was lost."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.torture.torture import rounds, tell

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=50)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
folder = Path(tempfile.mkdtemp(prefix="torture-"))
done = rounds(options.rounds, options.seed, folder)
tell(done)
if any(of.faults for of in done):
    sys.exit(f"What the rounds with a fault left is in {folder}")
