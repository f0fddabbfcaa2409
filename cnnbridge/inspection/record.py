"""What ``inspect`` found: plain records that a table, a page or a file is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adaptive.checks import Array
from adaptive.files import plain
from cnnbridge.learning.sgd import SGD
from cnnbridge.monitor.reading import steps_to_e

__all__ = ["Inspection", "LayerCurvature", "LayerHorizon", "LayerInspection", "Sharpness"]

# significant digits of the numbers in JSON and CSV
DIGITS = 6
# the columns of ``table``, in order, with what they hold
COLUMNS = {
    "layer": "name in the model",
    "kind": "class in torch.nn",
    "taps": "weights of one output channel",
    "outputs": "output channels",
    "patches": "patches of each group that R was taken from",
    "largest": "largest eigenvalue of R, in units of input power",
    "smallest": "smallest eigenvalue above rounding",
    "rank": "eigenvalues above rounding, of all groups",
    "effective_rank": "number of modes, if all were equal",
    "mean_share": "part of the input's power that its mean holds",
    "dead_channels": "input channels that are always zero",
    "bound": "learning rate from which the layer alone diverges, under its own MSE",
    "slowest": "steps in which the weakest excited mode falls to 1/e, under its own MSE",
    "curvature": "largest curvature of the loss along the modes that were looked at",
    "curvature_bound": "learning rate from which the loss diverges along that mode",
}


@dataclass(frozen=True, eq=False)
class LayerCurvature:
    """How the loss that is trained curves along the modes of one layer, the others held still.

    Attributes
    ----------
    eigenvalues : (groups, k) of R, those of ``LayerInspection.strongest`` and then ``weakest``.
    curvature : (groups, k), q' C q with C the sum over the group's outputs of the blocks of the
        Gauss-Newton matrix, divided by the number of the group's outputs: the curvature of the
        loss, averaged over outputs, along mode q. In units of 1 / learning rate.
    standard_error : (groups, k) of ``curvature``, from the random draws.
    largest : largest eigenvalue of the layer's block of the Gauss-Newton matrix; NaN if it was not
        asked for. No mode of one output exceeds it.
    bound : learning rate from which the loss diverges along the direction of largest known
        curvature: 2 (1 + momentum) / (curvature + weight_decay).
    """

    eigenvalues: Array = field(repr=False)
    curvature: Array = field(repr=False)
    standard_error: Array = field(repr=False)
    largest: float
    bound: float


@dataclass(frozen=True, eq=False)
class LayerHorizon:
    """How long predictions hold for one layer, on a copy that was trained.

    Attributes
    ----------
    level : 2 the layer in its place with the rest frozen, 3 and 4 the whole network.
    steps : that were compared.
    horizon : the first step at which the prediction is off by more than the tolerance; ``steps``
        if there is none.
    error : largest relative error of the displacement.
    """

    level: int
    steps: int
    horizon: int
    error: float


@dataclass(frozen=True, eq=False)
class LayerInspection:
    """One layer: the patches u that enter it, their R = E[u u'], and what follows for SGD.

    Attributes
    ----------
    name : in the model; "NAME.in_proj" for the input of an attention module.
    kind : class in torch.nn, such as "Conv2d".
    in_channels, out_channels, groups, kernel, stride : as in torch; (1,) for a linear layer.
    bias : whether the layer has one; R then has the constant tap 1 as its last.
    taps : L, weights of one output channel, without the bias.
    calls : how often it was called over all batches.
    seen : patches (places under the kernel) of each group over all batches.
    patches : of these, how many R was taken from.
    exact : whether that is all of them.
    sgd : the settings that bounds and time constants are for; None if none were given.
    eigenvalues : (groups, K) of R, ascending; K = taps + bias, or the patches if those are fewer.
    rounding : (groups,), eigenvalues below are rounding.
    strongest : (groups, k, in_channels / groups, *kernel) modes of the largest eigenvalues, in
        descending order, as pictures; of unit norm together with ``strongest_bias``. The kernel
        axes lie as the layer lays its kernel over the input.
    weakest : the same from the other end, ascending. With fewer patches than taps these are the
        weakest modes that the sample excites, not the smallest of R.
    strongest_bias, weakest_bias : (groups, k), their part along the bias; empty without a bias.
    largest_low : where patches were sampled, the power along the first mode of one half of the
        sample that the other half has: it reads low where ``largest`` reads high. NaN if ``exact``.
    mean_share : part of the power of u that its mean holds, |E u|^2 / E |u|^2.
    dead_channels : input channels that are zero in every patch.
    constant_channels : input channels of another constant value.
    unseen_taps : taps that are always zero in a channel that is not, such as those that meet only
        padding.
    curvature, horizons : see their classes; None or empty if not asked for or left out.
    normalization : by "none", "center", "amplify", "suppress" and "full", the (K,) eigenvalues of R
        with that part of a normalization in front of the layer; empty where none applies.
    seconds : that its statistics took after the batches were read.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    bias: bool
    taps: int
    calls: int
    seen: int
    patches: int
    exact: bool
    sgd: SGD | None
    eigenvalues: Array = field(repr=False)
    rounding: Array = field(repr=False)
    strongest: Array = field(repr=False)
    weakest: Array = field(repr=False)
    strongest_bias: Array = field(repr=False)
    weakest_bias: Array = field(repr=False)
    largest_low: float
    mean_share: float
    dead_channels: tuple[int, ...]
    constant_channels: tuple[int, ...]
    unseen_taps: int
    curvature: LayerCurvature | None = None
    horizons: tuple[LayerHorizon, ...] = ()
    normalization: Mapping[str, Array] = field(default_factory=dict, repr=False)
    seconds: float = math.nan

    @property
    def excited(self) -> Array:
        """All eigenvalues above rounding, of all groups, ascending."""
        return np.sort(self.eigenvalues[self.eigenvalues > self.rounding[:, None]])

    @property
    def largest(self) -> float:
        """The largest eigenvalue of R, in units of input power."""
        return float(self.eigenvalues.max())

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue above rounding; 0 for input that is zero."""
        return float(self.excited[0]) if self.excited.size else 0.0

    @property
    def rank(self) -> int:
        """Number of modes that the input excites, in all groups."""
        return int(self.excited.size)

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the eigenvalues' shares (Roy and Vetterli 2007); 0 for no input."""
        if not self.excited.size:
            return 0.0
        shares = self.excited / self.excited.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    @property
    def bound(self) -> float:
        """Learning rate from which this layer alone diverges, under MSELoss at its own output.

        2 (1 + momentum) / (2 lambda_max / M + weight_decay), M its output channels. It is no edge
        of the network, whose loss weighs the layer's output in its own way: see ``curvature``.
        """
        return (self.sgd or SGD(1.0)).highest_rate(2 * self.largest / self.out_channels)

    @property
    def time_constants(self) -> Array:
        """(groups, K) steps in which each mode falls to 1/e, under MSELoss at the layer's output.

        inf for a mode that does not decay; NaN without ``sgd``.
        """
        if self.sgd is None:
            return np.full(self.eigenvalues.shape, np.nan)
        sgd, excited = self.sgd, self.eigenvalues > self.rounding[:, None]
        curvature = np.where(excited, 2 * self.eigenvalues / self.out_channels, 0.0)
        paces = sgd.lr * (curvature + sgd.weight_decay)
        steps = [steps_to_e(pace, sgd.momentum) if pace else math.inf for pace in paces.flat]
        return np.array(steps).reshape(paces.shape)

    @property
    def slowest(self) -> float:
        """Steps in which the weakest excited mode falls to 1/e; NaN without ``sgd``."""
        excited = self.eigenvalues > self.rounding[:, None]
        if not excited.any():
            return math.nan
        weakest = np.where(excited, self.eigenvalues, np.inf).argmin()
        return float(self.time_constants.flat[weakest])

    @property
    def row(self) -> dict[str, Any]:
        """The layer's row of ``Inspection.table``."""
        curved = self.curvature
        values = (
            self.name,
            self.kind,
            self.taps,
            self.out_channels,
            self.patches,
            self.largest,
            self.smallest,
            self.rank,
            self.effective_rank,
            self.mean_share,
            len(self.dead_channels),
            self.bound,
            self.slowest,
            math.nan if curved is None else float(curved.curvature.max()),
            math.nan if curved is None else curved.bound,
        )
        return dict(zip(COLUMNS, values, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as data that strict JSON can hold; mode pictures are left to the arrays."""
        pictures = {"strongest", "weakest", "strongest_bias", "weakest_bias"}
        held = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in pictures}
        derived = ("largest", "smallest", "rank", "effective_rank", "bound", "slowest")
        found: dict[str, Any] = rounded(plain(held | {k: getattr(self, k) for k in derived}))
        return found

    @property
    def arrays(self) -> dict[str, Array]:
        """The layer's arrays by the end of their key in ``arrays.npz``."""
        found = {
            "eigenvalues": self.eigenvalues,
            "strongest": self.strongest,
            "weakest": self.weakest,
            "strongest_bias": self.strongest_bias,
            "weakest_bias": self.weakest_bias,
            "time_constants": self.time_constants,
        }
        if self.curvature is not None:
            found["curvature"] = self.curvature.curvature
            found["curvature_eigenvalues"] = self.curvature.eigenvalues
            found["curvature_standard_error"] = self.curvature.standard_error
        return found | {f"normalization/{k}": v for k, v in self.normalization.items()}

    def __str__(self) -> str:
        sample = "" if self.exact else f" of a sample of {self.patches:,} from {self.seen:,}"
        return (
            f"{self.name} ({self.kind}, {self.taps} taps, {self.out_channels} outputs): R{sample} "
            f"has eigenvalues from {self.smallest:.3g} to {self.largest:.3g}, effective rank "
            f"{self.effective_rank:.1f}; the mean holds {self.mean_share:.0%} of the power; "
            f"the layer alone is stable up to lr {self.bound:.3g}"
        )


@dataclass(frozen=True, eq=False)
class Sharpness:
    """Curvature of the loss over all parameters together, in units of 1 / learning rate.

    Attributes
    ----------
    largest : (k,) largest eigenvalues of the Hessian, descending.
    bound : learning rate above which the sharpest direction diverges:
        2 (1 + momentum) / (largest + weight_decay).
    batches : that the loss was averaged over.
    """

    largest: Array = field(repr=False)
    bound: float
    batches: int


@dataclass(frozen=True, eq=False)
class Inspection:
    """A network as ``inspect`` found it; ``inspection["layer1.0.conv1"]`` is one layer of it.

    Attributes
    ----------
    layers : by name, in the order in which they were first called.
    warnings : one sentence each: what was seen, and what to do.
    skipped : layers that were not read, and parts that were left out, each with its reason.
    notes : how the model was read, where that needs saying.
    sgd : the settings that bounds and time constants are for; None if none were given.
    loss : mean over the batches; NaN if no loss was given.
    batches, images : that were read.
    sharpness : of the loss, over all parameters; None if left out.
    degree : what ``cnnbridge.degree`` says, as its sentence; None if left out.
    advised_lr : a learning rate to start from, NaN if none follows; ``advice`` says what from.
    seconds : by part of the work.
    """

    layers: Mapping[str, LayerInspection]
    warnings: tuple[str, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    sgd: SGD | None
    loss: float
    batches: int
    images: int
    sharpness: Sharpness | None = None
    degree: str | None = None
    advised_lr: float = math.nan
    advice: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LayerInspection:
        if name not in self.layers:
            reason = self.skipped.get(name)
            raise KeyError(
                f"{name!r} was left out: {reason}"
                if reason
                else f"{name!r} is no layer that was inspected; these are {', '.join(self.layers)}"
            )
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def tightest(self) -> LayerInspection | None:
        """The layer whose own bound on the learning rate is the lowest; None without layers."""
        return min(self.layers.values(), key=lambda layer: layer.bound, default=None)

    def table(self) -> Any:
        """A pandas DataFrame, one row a layer; the columns are explained in ``COLUMNS``.

        Raises
        ------
        ModuleNotFoundError : pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "table() needs pandas, which is not installed. "
                "In a checkout: pip install '.[inspect]'",
                name=error.name,
            ) from error
        frame = pandas.DataFrame([each.row for each in self.layers.values()], columns=[*COLUMNS])
        return frame.set_index("layer")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the mode pictures, as data that strict JSON can hold."""
        held = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "layers"}
        layers = {name: layer.to_dict() for name, layer in self.layers.items()}
        return rounded(plain(held)) | {"layers": layers}

    def to_json(self) -> str:
        """``to_dict`` as strict JSON: numbers to six digits, infinities as strings, NaN as null."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1) + "\n"

    def save(self, folder: str | Path) -> Path:
        """Write the inspection into a folder, made if needed, and return the folder.

        * ``layers.csv``: the table.
        * ``inspection.json``: ``to_json``.
        * ``arrays.npz``: arrays under the keys "LAYER/NAME", with "eigenvalues", "strongest",
          "weakest", "strongest_bias", "weakest_bias", "time_constants", and where there is a
          curvature "curvature", "curvature_eigenvalues" and "curvature_standard_error".
        * ``report.html``: all of it to look at, offline; one layer is at ``report.html#NAME``.

        Raises
        ------
        ModuleNotFoundError : jinja2 is not installed; the other files are written all the same.
        OSError : the folder cannot be written.
        """
        from cnnbridge.inspection.files import write

        return write(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Inspection:
        """Read back what ``save`` wrote: the arrays to the bit, the other numbers to six digits.

        Raises
        ------
        ValueError : the folder holds no inspection, or one that cannot be read.
        """
        from cnnbridge.inspection.files import read

        return read(Path(folder))

    def __str__(self) -> str:
        lines = [f"{len(self.layers)} layers, {self.images:,} images in {self.batches} batches"]
        lines += [str(layer) for layer in self.layers.values()]
        lines += [f"! {warning}" for warning in self.warnings]
        return "\n".join(lines)


def rounded(data: Any) -> Any:
    """Plain data with its floats to six significant digits.

    Examples
    --------
    >>> rounded({"a": [0.1234567891, 3, None]})
    {'a': [0.123457, 3, None]}
    """
    if isinstance(data, float):
        return float(f"{data:.{DIGITS}g}")
    if isinstance(data, dict):
        return {key: rounded(part) for key, part in data.items()}
    if isinstance(data, list):
        return [rounded(part) for part in data]
    return data
