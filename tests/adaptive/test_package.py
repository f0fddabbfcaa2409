"""What the package promises as a package."""

import subprocess
import sys


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_imports_without_torch_and_without_matplotlib():
    result = run_python(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'matplotlib', 'pandas', 'tqdm'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import adaptive, numpy as np\n"
        "assert adaptive.lms(np.ones(4), np.ones(4), mu=0.1, taps=2).error.shape == (4,)\n"
    )
    assert result.returncode == 0, result.stderr


def test_nothing_compiles_at_import():
    result = run_python(
        "import adaptive._kernels as k\n"
        "from numba.core.dispatcher import Dispatcher\n"
        "kernels = [f for f in vars(k).values() if isinstance(f, Dispatcher)]\n"
        "assert len(kernels) >= 3 and not any(f.signatures for f in kernels)\n"
    )
    assert result.returncode == 0, result.stderr
