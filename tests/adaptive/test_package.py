"""What the package promises as a package."""

import subprocess
import sys

import numpy as np

import adaptive


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


FIRST_PAGE = [
    "delay_line_edge",
    "FilteredXLMS",
    "filtered_x_lms",
    "FilteredXNLMS",
    "filtered_x_nlms",
    "LMSNewton",
    "lms_newton",
    "VariableStepNLMS",
    "variable_step_nlms",
    "SetMembershipNLMS",
    "set_membership_nlms",
    "GNGD",
    "gngd",
    "MixedNormLMS",
    "mixed_norm_lms",
    "LeastMeanFourth",
    "least_mean_fourth",
    "IPNLMS",
    "ProportionateAffineProjection",
    "ipnlms",
    "proportionate_affine_projection",
    "LMS",
    "NLMS",
    "RLS",
    "AffineProjection",
    "BlockLMS",
    "FrequencyDomainLMS",
    "LeakyLMS",
    "LeakyNLMS",
    "MomentumLMS",
    "PowerNormalizedLMS",
    "SignDataLMS",
    "SignErrorLMS",
    "SignSignLMS",
    "TransformDomainLMS",
    "lms",
    "nlms",
    "rls",
    "affine_projection",
    "block_lms",
    "frequency_domain_lms",
    "leaky_lms",
    "leaky_nlms",
    "momentum_lms",
    "power_normalized_lms",
    "sign_data_lms",
    "sign_error_lms",
    "sign_sign_lms",
    "transform_domain_lms",
    "run",
    "predict",
    "predict_lms",
    "predict_nlms",
    "simulate",
    "verdict",
    "observed_edge",
    "stability_map",
    "natural_modes",
    "stability_bounds",
    "WienerProblem",
    "autocorrelation",
    "estimate_delay",
    "design_step",
    "SystemIdentification",
    "AutoRegressive",
    "GaussianRegressors",
    "white",
]
ROOMS = ["double_talk", "measures", "minibatch", "results", "scenarios", "signals", "tracking"]


def test_the_first_page_is_these_names_and_rooms():
    assert sorted(adaptive.__all__) == sorted(FIRST_PAGE + ROOMS)
    assert all(callable(getattr(adaptive, name)) for name in FIRST_PAGE)


def test_what_functions_return_is_in_results():
    problem = adaptive.WienerProblem(R=[[1.0]], P=[1.0], d_power=1.1)
    ones = np.ones(8)
    for record in (
        adaptive.lms(ones, ones, mu=0.1, taps=1),
        adaptive.predict_lms(problem, mu=0.1, steps=2),
        adaptive.stability_bounds([[1.0]]),
        adaptive.NLMS(mu=0.1, eps=0.1).bounds([[1.0]]),
        adaptive.stability_map(taps=2, spreads=[1.0], mus=[0.1]),
        adaptive.tracking.optimal_mu(problem, Q=[[1e-4]]),
    ):
        assert type(record).__module__ == "adaptive.results"
