"""DnCNN: a plain stack of convolutions that predicts the noise."""

from jaxtyping import Float
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError


class DnCNN(nn.Module):
    """D(x) = x - network(x): convolutions with batch normalisation that estimate the noise in x.

    `depth` convolutions of 3x3: the first followed by ReLU, the middle ones by batch normalisation and ReLU, the last
    bare. Denoised smoothing uses depth 17 with width 64, and with width 128 as its wide variant; depth 6 and width 32
    trains on a CPU. The network is blind: it is trained for one law of noise and ignores the `sigma` that it is told.

    Args:
        channels: Channels of the image.
        depth: Number of convolutions, at least 3.
        width: Channels between them.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    Reference: Zhang, Zuo, Chen, Meng, Zhang 2017, "Beyond a Gaussian Denoiser"; Salman et al. 2020, appendix.
    """

    def __init__(self, channels: int = 3, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        for key, value, least in (("channels", channels, 1), ("depth", depth, 3), ("width", width, 1)):
            if value < least:
                raise InvalidArgumentError(f"{key} must be at least {least}, got {key}={value}")
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            # A bias before batch normalisation would be subtracted again.
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=False))
        self.network = nn.Sequential(*layers)
        for module in self.network:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], sigma: float | int = 0.0
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the estimate of the clean image, not clipped; `sigma` is not used."""
        estimate: Tensor = x - self.network(x)
        return estimate
