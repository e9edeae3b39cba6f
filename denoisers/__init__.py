"""Denoisers before a frozen classifier (denoised smoothing, Salman et al. 2020).

A denoiser takes and returns pixels in [0, 1], so that a classifier that was never trained with noise can be smoothed:
the certificate is for the pair. This floor imports `smoothing` only.
"""

from denoisers.base import DenoisedClassifier, Denoiser
from denoisers.classical import CLASSICAL, ClassicalDenoiser
from denoisers.dncnn import DnCNN
from denoisers.memnet import MemNet
from denoisers.table import DENOISERS, build_denoiser, sizes_of
from denoisers.unet import UNet

__all__ = [
    "CLASSICAL",
    "DENOISERS",
    "ClassicalDenoiser",
    "DenoisedClassifier",
    "Denoiser",
    "DnCNN",
    "MemNet",
    "UNet",
    "build_denoiser",
    "sizes_of",
]
