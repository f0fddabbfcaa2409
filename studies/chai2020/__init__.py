"""The studies of Chai, Pilanci and Murmann (2020), a folder each, and the claims that they test."""

from studies.engine.protocol import Claim, Paper

__all__ = ["PAPER"]

PAPER = Paper(
    name="chai2020",
    title="What BatchNorm does to training, claim by claim",
    citation="E. Chai, M. Pilanci, B. Murmann, Separating the Effects of Batch Normalization on "
    "CNN Training Speed and Stability Using Classical Adaptive Filter Theory, Asilomar 2020",
    claims=(
        Claim(
            "Natural modes",
            "The updates of a conv layer's weights have natural modes. The eigenvalues of the "
            "autocorrelation matrix of the layer's input set how fast each converges and where it "
            "becomes unstable, and BatchNorm controls these eigenvalues channel by channel.",
            ("conv-modes", "mode-curvature", "in-network", "spectra"),
        ),
        Claim(
            "Two distinct effects",
            "Speed and stability are separate benefits of BatchNorm: at low learning rates, "
            "raising the smallest eigenvalues makes training faster; at high learning rates, "
            "lowering the largest ones keeps it stable.",
            ("two-effects",),
        ),
        Claim(
            "NLMS at the first step, and after",
            "In the first step of training BatchNorm solves the same optimization problem as NLMS, "
            "and in the steps after that it goes on doing so approximately. (A study for each "
            "half; the claim holds when both do.)",
            ("first-step", "after-first-step"),
        ),
    ),
)
