"""Published results of training methods, as `reproduce_training.py` compares with them.

LeNet: ACR and certified accuracies of per-image logs of Jeong and Shin 2020, Jeong et al. 2021 (mean of five networks each)
and Jeong, Kim, Shin 2023 (CAT-RS, one network): all 10,000 test images at n = 100,000, and the same networks with their
vote shares re-evaluated at n = 10,000, on all images and on every 20th. ResNet-20: logs of Jeong and Shin 2020.
ACR at different n must never be compared: the key holds n and the stride between the images.
"""

Key = tuple[str, float, int, int]
"""Table, sigma, n, stride."""

ACR: dict[Key, dict[str, float]] = {
    ("mnist", 0.25, 100_000, 1): {
        "gaussian": 0.9108, "stability": 0.9152, "smoothadv": 0.9322, "macer": 0.9201, "consistency": 0.9282,
        "smoothadv-consistency": 0.9323, "smoothmix": 0.9317, "smoothmix-one-step": 0.9330, "cat-rs": 0.9331,
    },
    ("mnist", 0.5, 100_000, 1): {
        "gaussian": 1.5581, "stability": 1.5719, "smoothadv": 1.6872, "macer": 1.5899, "consistency": 1.6549,
        "smoothadv-consistency": 1.6957, "smoothmix": 1.6932, "smoothmix-one-step": 1.6932, "cat-rs": 1.6999,
    },
    ("mnist", 1.0, 100_000, 1): {
        "gaussian": 1.6184, "stability": 1.6341, "smoothadv": 1.7786, "macer": 1.5950, "consistency": 1.7376,
        "smoothadv-consistency": 1.8163, "smoothmix": 1.8185, "smoothmix-one-step": 1.8169, "cat-rs": 1.8306,
    },
    ("mnist", 0.25, 10_000, 1): {
        "gaussian": 0.7719, "stability": 0.7749, "smoothadv": 0.7851, "macer": 0.7776, "consistency": 0.7827,
        "smoothmix": 0.7849,
    },
    ("mnist", 0.25, 10_000, 20): {
        "gaussian": 0.7619, "stability": 0.7662, "smoothadv": 0.7753, "macer": 0.7676, "consistency": 0.7743,
        "smoothmix": 0.7764,
    },
    ("mnist", 0.5, 10_000, 1): {
        "gaussian": 1.3889, "stability": 1.4002, "smoothadv": 1.4634, "macer": 1.4043, "consistency": 1.4496,
        "smoothmix": 1.4635,
    },
    ("mnist", 0.5, 10_000, 20): {
        "gaussian": 1.3703, "stability": 1.3807, "smoothadv": 1.4495, "macer": 1.3886, "consistency": 1.4318,
        "smoothmix": 1.4505,
    },
    ("mnist", 1.0, 10_000, 1): {
        "gaussian": 1.5606, "stability": 1.5756, "smoothadv": 1.7042, "macer": 1.5284, "consistency": 1.6670,
        "smoothmix": 1.7276,
    },
    ("mnist", 1.0, 10_000, 20): {
        "gaussian": 1.5477, "stability": 1.5645, "smoothadv": 1.6954, "macer": 1.5238, "consistency": 1.6590,
        "smoothmix": 1.7169,
    },
    ("fashion_mnist", 0.25, 100_000, 1): {
        "gaussian": 0.6701, "stability": 0.6886, "smoothadv": 0.7559, "macer": 0.7268, "consistency": 0.7436,
        "smoothmix": 0.7454, "cat-rs": 0.7566,
    },
    ("fashion_mnist", 0.5, 100_000, 1): {
        "gaussian": 1.0563, "stability": 1.1180, "smoothadv": 1.2547, "macer": 1.1833, "consistency": 1.2118,
        "smoothmix": 1.2369, "cat-rs": 1.2741,
    },
    ("fashion_mnist", 1.0, 100_000, 1): {
        "gaussian": 1.3163, "stability": 1.3939, "smoothadv": 1.5380, "macer": 1.5045, "consistency": 1.4913,
        "smoothmix": 1.5338, "cat-rs": 1.6068,
    },
    ("cifar10", 0.5, 100_000, 1): {
        "gaussian": 0.5242, "stability": 0.4992, "macer": 0.6607, "smoothadv": 0.6821, "consistency": 0.6864,
    },
}  # fmt: skip

STEP = 0.25
"""The columns of `ACCURACY` are the radii 0, STEP, 2 STEP, ..."""

ACCURACY: dict[Key, dict[str, tuple[float, ...]]] = {
    ("mnist", 0.25, 100_000, 1): {
        "gaussian": (99.2, 98.5, 96.7, 93.1), "stability": (99.3, 98.6, 97.1, 93.8),
        "smoothadv": (99.4, 99.0, 98.2, 96.8), "macer": (99.3, 98.7, 97.3, 94.7),
        "consistency": (99.4, 98.9, 97.9, 96.0), "smoothmix": (99.5, 98.9, 98.2, 96.7),
        "cat-rs": (99.4, 99.0, 98.2, 96.9),
    },
    ("mnist", 0.5, 100_000, 1): {
        "gaussian": (99.2, 98.3, 96.9, 94.3, 89.8, 82.0, 67.8, 44.9),
        "stability": (99.3, 98.5, 97.3, 94.9, 90.8, 83.1, 69.2, 45.8),
        "smoothadv": (99.0, 98.4, 97.4, 95.7, 92.9, 88.5, 81.1, 67.5),
        "macer": (98.7, 97.8, 96.3, 93.9, 90.1, 83.5, 72.1, 52.3),
        "consistency": (99.2, 98.5, 97.5, 95.8, 92.9, 87.7, 78.3, 60.4),
        "smoothadv-consistency": (98.6, 98.0, 97.0, 95.2, 92.6, 88.4, 82.0, 70.4),
        "smoothmix": (98.6, 98.0, 97.0, 95.2, 92.6, 88.5, 81.8, 69.8),
        "cat-rs": (98.6, 98.0, 97.0, 95.4, 92.8, 88.7, 82.5, 71.1),
    },
    ("mnist", 0.5, 10_000, 1): {
        "gaussian": (99.1, 98.3, 96.8, 94.0, 88.9, 79.2, 56.6),
        "stability": (99.2, 98.5, 97.1, 94.6, 89.9, 80.6, 57.6),
        "smoothadv": (99.0, 98.3, 97.3, 95.4, 92.4, 86.9, 74.5),
        "macer": (98.7, 97.7, 96.2, 93.7, 89.4, 81.3, 62.5),
        "consistency": (99.1, 98.5, 97.4, 95.6, 92.3, 85.8, 69.9),
        "smoothmix": (98.6, 97.9, 96.9, 95.0, 92.2, 87.1, 76.1),
    },
    ("fashion_mnist", 0.5, 100_000, 1): {
        "gaussian": (86.2, 80.7, 73.2, 64.8, 55.5, 45.6, 35.0, 24.1),
        "stability": (85.9, 81.6, 75.8, 68.8, 60.2, 50.5, 39.4, 27.6),
        "smoothadv": (83.3, 80.2, 76.5, 71.9, 66.7, 61.1, 54.5, 45.9),
        "macer": (83.3, 80.1, 75.9, 70.4, 64.2, 56.7, 47.7, 36.0),
        "consistency": (84.9, 81.1, 76.4, 71.2, 65.2, 57.8, 49.3, 39.2),
        "smoothmix": (84.4, 80.7, 76.3, 71.2, 65.6, 58.9, 52.5, 44.2),
        "cat-rs": (82.5, 79.6, 76.2, 72.3, 67.8, 62.5, 56.7, 49.0),
    },
}  # fmt: skip
