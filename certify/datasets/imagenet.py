"""ImageNet (ILSVRC 2012) from folders of one class each.

O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015.
"""

import re
from dataclasses import replace
from pathlib import Path

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.image_folder import load_image_folder
from certify.datasets.missing import not_found
from certify.errors import DatasetError
from certify.torchvision_compat import import_torchvision

FOLDERS = {"test": "val", "train": "train"}
NUM_CLASSES = 1_000
FIRST_AND_LAST = ("n01440764", "n15075141")  # tench, toilet tissue
WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)


def load_imagenet(root: Path, split: str, transform: ImageTransform | None = None) -> Dataset:
    """Load `<root>/imagenet/val/<wnid>/*.JPEG` (or `<root>/ImageNet/val`, or torchvision's `<root>/val`).

    The split "test" is the official validation set, on which everyone reports. Labels follow the sorted WordNet
    identifiers, as those of torchvision, timm and the published codes do; a folder without exactly these 1,000 classes
    would shift them, and is refused. Images differ in size: pass the transform of the model.

    Raises:
        DatasetError: If the folder is missing or holds other classes.
    """
    folder = FOLDERS[split]
    candidates = [root / "imagenet" / folder, root / "ImageNet" / folder, root / folder]
    found = [path for path in candidates if path.is_dir()]
    if not found:
        mend = (
            "ImageNet cannot be downloaded without an account: get it from image-net.org and unpack it to one folder "
            f"per class, {candidates[0] / FIRST_AND_LAST[0]}/*.JPEG and so on (torchvision.datasets.ImageNet does that)"
        )
        raise not_found("imagenet", split, candidates, mend)
    dataset = load_image_folder(found[0], "imagenet", split, transform)
    wnids = dataset.class_names
    if (
        len(wnids) != NUM_CLASSES
        or (wnids[0], wnids[-1]) != FIRST_AND_LAST
        or not all(WORDNET_ID.fullmatch(wnid) for wnid in wnids)
    ):
        raise DatasetError(
            f"{found[0]}: imagenet has {NUM_CLASSES} class folders from {FIRST_AND_LAST[0]} to {FIRST_AND_LAST[1]}, "
            f"got {len(wnids)} from {wnids[0]} to {wnids[-1]}; give the folder by its path if you want these classes"
        )
    names = import_torchvision("models").ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return replace(dataset, class_names=tuple(names))
