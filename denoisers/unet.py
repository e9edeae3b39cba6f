"""A small U-Net: sees far for few operations, which suits large noise and a CPU."""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError


class UNet(nn.Module):
    """D(x) = x + network([x, sigma]): an encoder and a decoder with skip connections.

    Each level halves the height and width and doubles the channels; images whose sides are no multiple of 2^levels are
    padded by their border inside and cropped again. Group normalisation, so that an image's estimate never depends on its
    batch, not even in training. Unlike DnCNN and MemNet it uses `sigma`, as one more constant channel: one network can
    be trained for several noise levels.

    Args:
        channels: Channels of the image.
        width: Channels of the first level, a multiple of 4.
        levels: Number of halvings, at least 1.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    Reference: Ronneberger, Fischer, Brox 2015, "U-Net"; the constant noise channel as in Zhang, Zuo, Zhang 2018, "FFDNet".
    """

    def __init__(self, channels: int = 3, width: int = 32, levels: int = 2) -> None:
        super().__init__()
        if channels < 1 or levels < 1:
            raise InvalidArgumentError(f"channels and levels must be at least 1, got {channels} and {levels}")
        if width < 4 or width % 4:
            raise InvalidArgumentError(f"width must be a multiple of 4, got width={width}")
        sizes = [width * 2**level for level in range(levels + 1)]
        self.levels = levels
        self.entry = _block(channels + 1, sizes[0])
        self.down = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2), _block(small, large)) for small, large in itertools.pairwise(sizes)
        )
        self.up = nn.ModuleList(
            _block(large + small, small) for small, large in reversed(list(itertools.pairwise(sizes)))
        )
        self.exit = nn.Conv2d(sizes[0], channels, 1)
        # The untrained network is the identity: training starts from "change nothing".
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "batch channel height width"], sigma: float | int = 0.0
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the estimate of the clean image for noise of standard deviation `sigma` per pixel, not clipped."""
        height, width = x.shape[-2:]
        step = 2**self.levels
        # "replicate" rather than "reflect": the latter refuses padding as large as the image itself.
        padded = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        level = torch.full_like(padded[:, :1], sigma)
        skips = [self.entry(torch.cat([padded, level], 1))]
        for down in self.down:
            skips.append(down(skips[-1]))
        features = skips.pop()
        for up in self.up:
            features = up(torch.cat([F.interpolate(features, scale_factor=2.0, mode="nearest"), skips.pop()], 1))
        estimate: Tensor = x + self.exit(features)[..., :height, :width]
        return estimate


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.SiLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.SiLU(inplace=True),
    )
