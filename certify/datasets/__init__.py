"""Data sets: numbered inputs in [0, 1] with labels, by name or by path; and which of them to certify."""

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.image_folder import ImageFolderDataset
from certify.datasets.in_memory import ArrayDataset
from certify.datasets.loading import DATASETS, default_root, load_dataset
from certify.datasets.selection import parse_shard, select_indices

__all__ = [
    "DATASETS",
    "ArrayDataset",
    "Dataset",
    "ImageFolderDataset",
    "ImageTransform",
    "default_root",
    "load_dataset",
    "parse_shard",
    "select_indices",
]
