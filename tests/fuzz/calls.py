"""A good call of everything public, and hostile values to spoil it with.

What is public is read from the packages' own lists. A parameter that has no good value here fails
``test_nothing_public_is_left_out``, so that nothing new escapes the fuzzer.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import adaptive
import cnnbridge

TAPS, N, STEPS = 3, 24, 12
# entered with ``with``, fed by a training loop, or made by the package for its users to read
NOT_CALLED = {"capture", "Monitor", "replay", "Geometry"}
# not spoilt: files would be written to wherever a text points
WRITTEN_TO = {"keep"}
# between modules of adaptive; their users check what they hand on
INSIDE = {
    "distribution", "Recursion", "unit_noise", "delay_line", "deviations", "band",
    "step_covariance",
}  # fmt: skip


def signal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(N)


def problem() -> Any:
    return adaptive.WienerProblem(R=np.diag([1.0, 0.5, 0.2]), P=[1.0, 0.5, 0.1], d_power=3.0)


def scenario() -> Any:
    return adaptive.SystemIdentification(
        adaptive.white(TAPS), w_o=[1.0, -0.5, 0.2], noise_power=0.1
    )


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return tensor(6, 2, 6, 6), torch.arange(6) % 4


def prediction() -> Any:
    return adaptive.predict_lms(problem(), mu=0.1, steps=STEPS)


def ensemble() -> Any:
    return adaptive.simulate(scenario(), "lms", mu=0.1, steps=STEPS, runs=4, seed=0)


def layer_prediction() -> Any:
    return cnnbridge.predict_layer(
        conv(), tensor(4, 2, 6, 6), tensor(4, 3, 4, 4, seed=1), lr=0.01, steps=4
    )


def layer_observation() -> Any:
    return cnnbridge.observe_layer(
        conv(), tensor(4, 2, 6, 6), tensor(4, 3, 4, 4, seed=1), lr=0.01, steps=4
    )


Good = Mapping[str, Callable[[], Any]]
ADAPTIVE: Good = {
    "u": lambda: signal(0),
    "d": lambda: signal(1),
    "taps": lambda: TAPS,
    "w0": lambda: np.zeros(TAPS),
    "w_o": lambda: np.ones(TAPS),
    "record": lambda: "last",
    "mu": lambda: 0.02,
    "eps": lambda: 0.1,
    "order": lambda: 2,
    "block": lambda: 3,
    "forgetting": lambda: 0.9,
    "delta": lambda: 0.1,
    "normalize": lambda: True,
    "leakage": lambda: 0.1,
    "momentum": lambda: 0.5,
    "R": lambda: np.diag([1.0, 0.5, 0.2]),
    "P": lambda: np.array([1.0, 0.5, 0.1]),
    "d_power": lambda: 3.0,
    "coefficients": lambda: [0.5],
    "power": lambda: 1.0,
    "innovations": lambda: "gaussian",
    "distribution": lambda: "gaussian",
    "source": lambda: adaptive.white(TAPS),
    "noise_power": lambda: 0.1,
    "noise": lambda: "gaussian",
    "scenario": scenario,
    "problem": problem,
    "algorithm": lambda: adaptive.LMS(mu=0.02),
    "steps": lambda: STEPS,
    "runs": lambda: 4,
    "seed": lambda: 0,
    "resolution": lambda: 0.5,
    "spreads": lambda: [1.0, 10.0],
    "mus": lambda: [0.01, 0.1],
    "prediction": prediction,
    "ensemble": ensemble,
    "k": lambda: 4.0,
    "quantiles": lambda: (0.5,),
    "threads": lambda: 1,
    "resume": lambda: None,
    "progress": lambda: False,
    "batch": lambda: 4,
    "adapt": lambda: None,
    "replace": lambda: True,
    "signal": lambda: adaptive.white(TAPS),
    "reference": lambda: adaptive.white(TAPS),
    "path": lambda: [1.0, 0.5],
    "length": lambda: 3,
    "decay": lambda: 0.5,
    "loss": lambda: 0.0,
    "ahead": lambda: 1,
    "W": lambda: 2.9,
    "channel": lambda: [1.0, 0.5],
    "delay": lambda: 2,
    "probability": lambda: 0.1,
    "ratio": lambda: 100.0,
    "ar": lambda: [0.5],
    "ma": lambda: [0.2],
    "frequencies": lambda: [0.1],
    "amplitudes": lambda: 1.0,
    "samples": lambda: signal(2),
    "rate": lambda: None,
    "Q": lambda: 1e-4 * np.eye(TAPS),
    "alpha": lambda: 0.0,
    "secondary": lambda: [0.0, 0.8, 0.3],
    "model": lambda: None,
    "mix": lambda: 0.5,
    "rho": lambda: 0.1,
    "bound": lambda: 0.5,
    "start": lambda: 0,
    "largest": lambda: 5,
    "threshold": lambda: 0.5,
    "hold": lambda: 2,
    "error": lambda: signal(3),
    "learned": lambda: adaptive.lms(signal(0), signal(1), mu=0.02, taps=TAPS, record="all"),
    "window": lambda: 3,
    "dB": lambda: 3.0,
    "misadjustment": lambda: 0.1,
    "within_dB": lambda: 1.0,
    "tracking": lambda: None,
    "part": lambda: 0.5,
}
CNNBRIDGE: Good = {
    "conv": conv,
    "x": lambda: tensor(4, 2, 6, 6),
    "target": lambda: tensor(4, 3, 4, 4, seed=1),
    "bias": lambda: False,
    "device": lambda: None,
    "lr": lambda: 0.01,
    "momentum": lambda: 0.0,
    "weight_decay": lambda: 0.0,
    "steps": lambda: 4,
    "model": model,
    "data": batch,
    "loss": lambda: nn.functional.cross_entropy,
    "loss_fn": lambda: nn.functional.cross_entropy,
    "layer": lambda: "0",
    "loader": lambda: [batch()],
    "samples": lambda: 64,
    "parts": lambda: ("curvature",),
    "closely": lambda: (),
    "budget": lambda: None,
    "layer_name": lambda: "0",
    "norm": lambda: "1",
    "optimizer": lambda: None,
    "groups": lambda: True,
    "group": lambda: 0,
    "seed": lambda: 0,
    "R": lambda: torch.diag(torch.tensor([1.0, 0.5, 0.25])),
    "tolerance": lambda: 1e-2,
    "tolerances": lambda: (0.1, 0.5),
    "products": lambda: None,
    "prediction": layer_prediction,
    "observation": layer_observation,
    "names": lambda: ["none", "batch"],
    "eps": lambda: 1e-5,
    "num_groups": lambda: None,
    "variant": lambda: "full",
    "problems": problem,
    "out_channels": lambda: 3,
    "modes": lambda: 2,
    "draws": lambda: 2,
    "layers": lambda: ["0"],
    "lrs": lambda: [0.01],
    "batch_sizes": lambda: [4],
    "progress": lambda: None,
    "method": lambda: "auto",
    "chunk_size": lambda: None,
    "dtype": lambda: None,
    "all_reduce": lambda: False,
    "fraction": lambda: 0.5,
    "kind": lambda: "hessian",
    "top": lambda: 1,
    "probes": lambda: 2,
    "channels": lambda: 3,
    "center": lambda: True,
    "scale": lambda: "full",
    "per": lambda: "channel",
    "statistics": lambda: "batch",
    "grad_through_statistics": lambda: True,
    "affine": lambda: True,
    "track_running_stats": lambda: True,
    "axis": lambda: 1,
}
# where a name means something else than usual
SPECIAL: dict[str, Good] = {
    "adaptive.IPNLMS": {"order": lambda: 1},
    "adaptive.LeastMeanFourth": {"mix": lambda: 0.0},
    "adaptive.measures.erle": {"d_power": lambda: None},
    "adaptive.delay_line_edge": {"walkers": lambda: 40, "steps": lambda: 30},
    "adaptive.observed_edge": {"taps": lambda: None},
    "adaptive.design_step": {"samples": lambda: 200, "taps": lambda: None},
    "adaptive.simulate": {"record": lambda: 1, "mu": lambda: None},
    **{
        f"adaptive.minibatch.{name}": {
            "u": lambda: signal(0).reshape(-1, TAPS), "d": lambda: signal(1)[: N // TAPS],
        }
        for name in ("predict_minibatch", "minibatch_edge", "lyapunov_edge", "minibatch_edges")
    },
    "cnnbridge.inspect": {"layers": lambda: None, "momentum": lambda: 0.0, "keep": lambda: None},
    "cnnbridge.first_step_is_nlms": {"x": lambda: batch()[0], "target": lambda: batch()[1],
                                     "conv": lambda: "0"},
    "cnnbridge.nlms_departures": {"x": lambda: batch()[0], "target": lambda: batch()[1],
                                  "conv": lambda: "0"},
    "cnnbridge.compare_normalizations": {"names": lambda: None},
    "cnnbridge.extreme_eigenvalues": {"steps": lambda: 30},
    "cnnbridge.SplitBatchNorm": {"momentum": lambda: 0.1},
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """Something public: its name, itself, and the parameters that it is called with."""

    name: str
    function: Callable[..., Any]
    parameters: tuple[str, ...]

    def good(self) -> dict[str, Any]:
        """Arguments it must accept, made afresh."""
        table = ADAPTIVE if self.name.startswith("adaptive") else CNNBRIDGE
        made = {**table, **SPECIAL.get(self.name, {})}
        return {name: made[name]() for name in self.parameters}


def calls() -> Iterator[Call]:
    """Everything that the packages' first pages and their sub-namespaces list."""
    seen = set()
    for package in (adaptive, cnnbridge):
        modules = [package] + [
            importlib.import_module(f"{package.__name__}.{info.name}")
            for info in pkgutil.iter_modules(package.__path__)
            if info.name in package.__all__
        ]
        for module in modules:
            for name, thing in _public(module):
                if not callable(thing) or id(thing) in seen or name in NOT_CALLED | INSIDE:
                    continue
                if inspect.isabstract(thing) or getattr(thing, "_is_protocol", False):
                    continue
                if inspect.isclass(thing) and module.__name__.endswith("results"):
                    continue  # what functions return
                seen.add(id(thing))
                yield Call(f"{module.__name__}.{name}", thing, _parameters(thing))


def _public(module: Any) -> list[tuple[str, Any]]:
    if hasattr(module, "__all__"):
        return [(name, getattr(module, name)) for name in module.__all__]
    return [
        (name, thing)
        for name, thing in vars(module).items()
        if name[0] != "_" and getattr(thing, "__module__", None) == module.__name__
    ]


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return tuple(
        p.name for p in inspect.signature(function).parameters.values() if p.kind not in variadic
    )


class Strange:
    """An object of no kind that anything expects."""

    def __repr__(self) -> str:
        return "<strange>"


def _ragged() -> list[Any]:
    return [[1.0, 2.0], [3.0]]


class UsersOwn(Exception):
    """What a user's function raises."""


def raises(*arguments: Any, **named: Any) -> Any:
    """A function of the user's, which fails."""
    raise UsersOwn


SINGLE: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: "", lambda: "text", lambda: b"\xff", lambda: 1j,
    lambda: float("nan"), lambda: float("inf"), lambda: -float("inf"), lambda: 1e300,
    lambda: 1e-300,
    lambda: 2**63, lambda: -(2**63), lambda: 10**400, lambda: -1, lambda: 0, lambda: 0.5,
    lambda: np.float32(0.5), lambda: np.int8(3), lambda: np.array(2), lambda: np.array([], float),
    lambda: [], lambda: {}, lambda: set(), lambda: (), _ragged, Strange,
    lambda: raises, lambda: slice(3), lambda: range(3), lambda: iter([1.0, 2.0]),
    lambda: np.array(["a", "b"]), lambda: np.array([None, 1.0]), lambda: np.eye(3).astype(">f8"),
    lambda: np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0]), lambda: np.array([True, False]),
    lambda: np.datetime64("2020-01-01"), lambda: np.ones((2, 2, 2, 2)), lambda: np.eye(3) * 1j,
    lambda: np.full(N, np.nan), lambda: np.full(N, 1e200), lambda: np.zeros(N),
    lambda: np.arange(N, dtype=np.int16), lambda: signal(5).astype(np.float32),
    lambda: signal(5).astype(np.float16), lambda: signal(5).astype(np.longdouble),
    lambda: np.broadcast_to(1.0, (N,)), lambda: signal(5)[::-1], problem, scenario,
    lambda: tensor(4, 2, 6, 6).double(), lambda: tensor(4, 2, 6, 6).half(),
    lambda: tensor(4, 2, 6, 6).to_sparse(), lambda: torch.ones(4, 2, 6, 6, device="meta"),
    lambda: torch.full((4, 2, 6, 6), float("nan")), lambda: torch.zeros(0, 2, 6, 6),
    lambda: torch.ones(4, 2, 6, 6, dtype=torch.int64), lambda: tensor(4, 2, 6, 6) * (1 + 1j),
    lambda: tensor(4, 2, 6, 6).requires_grad_(), lambda: tensor(3), lambda: torch.tensor(1.0),
    conv, model, batch, lambda: nn.Conv1d(2, 3, 3), lambda: nn.LazyConv2d(3, 3),
    lambda: nn.Identity(), lambda: nn.Conv2d(2, 4, 3, groups=2, stride=2, dilation=2, padding=1),
    lambda: torch.float64, lambda: "cuda", lambda: "nowhere", lambda: torch.device("meta"),
]  # fmt: skip

arrays = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.complex128, np.int32, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)
hostile = st.one_of(
    st.sampled_from(SINGLE).map(lambda make: make()),
    st.sampled_from(SINGLE).map(lambda make: make()),
    st.integers(-3, 30),
    st.floats(width=64),
    st.complex_numbers(max_magnitude=1e3),
    st.text(max_size=4),
    arrays,
    st.lists(st.floats(-10, 10), max_size=5),
)
