"""One layer of every kind, each of four channels, so that these can be given unlike strengths."""

from torch import nn

# name: (layer of 4 channels or features, shape of its input after the samples' axis)
KINDS = {
    "Conv1d, reflect": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="reflect"), (4, 9)),
    "Conv2d, strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1), (4, 7, 6)),
    "Conv2d, circular, groups": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2),
        (4, 5, 6),
    ),
    "Conv2d, replicate, dilated": (
        lambda: nn.Conv2d(4, 2, 2, padding=1, padding_mode="replicate", dilation=2, bias=False),
        (4, 5, 5),
    ),
    "Conv2d, depthwise, same": (lambda: nn.Conv2d(4, 8, 3, padding="same", groups=4), (4, 5, 4)),
    "Conv3d": (
        lambda: nn.Conv3d(4, 3, (1, 2, 2), stride=(1, 2, 1), padding=(0, 1, 0)),
        (4, 2, 4, 3),
    ),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1),
        (4, 6),
    ),
    "ConvTranspose2d, groups": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2),
        (4, 4, 3),
    ),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 2, 2, stride=2, bias=False), (4, 2, 2, 3)),
    "Linear": (lambda: nn.Linear(4, 6), (4,)),
    "Linear, tokens": (lambda: nn.Linear(4, 6), (5, 4)),
}
