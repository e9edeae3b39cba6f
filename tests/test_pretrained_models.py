"""Models of torchvision, timm and Hugging Face, and the transforms that come with them."""

import functools
import json
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_tools import scores
from torch import Tensor

from certify.errors import DatasetError, ModelError, UsageError
from certify.models import (
    LoadedModel,
    load_model,
    rebuild_transform,
    transform_text,
)
from certify.models.transforms import CenterCropOrPad, Geometry, Resize
from certify.prediction import read_image
from certify.torchvision_compat import import_torchvision

# --------------------------------------------------------------------------------------------------- pretrained models


def picture(width: int = 90, height: int = 70) -> Any:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_batch(image: Any) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def assert_rebuilds(model: LoadedModel) -> str:
    text = transform_text(model.transform)
    assert text is not None
    again = rebuild_transform(text)
    assert transform_text(again) == text
    assert model.transform is not None
    for image in (picture(), picture(90, 40)):
        assert np.array_equal(np.asarray(again(image)), np.asarray(model.transform(image)))
    return text


def test_the_text_of_any_transform() -> None:
    assert transform_text(None) is None
    texts = [transform_text(functools.partial(picture, width=width)) for width in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]
    good = Geometry("L", (Resize((8, 9), "bicubic"), CenterCropOrPad((12, 12), (7,), "constant"))).describe()
    assert rebuild_transform(good)(picture()).size == (12, 12)
    for old, new in [
        ("bicubic", "cubic"), ("[8, 9]", "[8, 0]"), ("[8, 9]", "[8, 99999]"), ("[8, 9]", "[true]"), ("[8, 9]", "[]"),
        ('"L"', '"P"'), ("geometry", "other"), ("Resize", "open"), ("constant", "x"), ("fill", "full"), ("{", "["),
    ]:  # fmt: skip
        with pytest.raises(ModelError, match="a transform must be one that a model brought"):
            rebuild_transform(good.replace(old, new))
    assert isinstance(texts[0], str)
    with pytest.raises(ModelError, match="a transform must be one that a model brought"):
        rebuild_transform(texts[0])


def test_image_files_are_read_as_the_data_sets_read_them(tmp_path: Path) -> None:
    from PIL import Image

    def model(shape: tuple[int, ...], transform: Any = None) -> LoadedModel:
        return LoadedModel("x", lambda x: x, 2, shape, transform, None, None, None, "", "")

    path = tmp_path / "x.png"
    picture(7, 5).save(path)
    assert torch.equal(read_image(path, model((3, 5, 7))), as_batch(picture(7, 5))[0])
    grey = picture(7, 5).convert("L")
    assert torch.equal(read_image(path, model((1, 5, 7))), torch.from_numpy(np.asarray(grey).copy())[None] / 255)
    grey.save(path)
    assert torch.equal(read_image(path, model((1, 5, 7))), torch.from_numpy(np.asarray(grey).copy())[None] / 255)
    assert read_image(path, model((3, 4, 4), Geometry("RGB", (Resize((4, 4), "bilinear"),)))).shape == (3, 4, 4)
    with pytest.raises(DatasetError, match=r"has shape \(3, 5, 7\), but the model takes \(3, 4, 4\)"):
        read_image(path, model((3, 4, 4)))
    Image.fromarray(np.full((5, 7), 40_000, np.uint16)).save(path)
    with pytest.raises(DatasetError, match="8 bits per channel, got PIL mode I;16"):
        read_image(path, model((1, 5, 7)))
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="not a readable image"):
        read_image(path, model((1, 5, 7)))
    with pytest.raises(DatasetError, match="there is no file"):
        read_image(tmp_path / "absent.png", model((1, 5, 7)))


def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = import_torchvision("models")
    with pytest.raises(UsageError, match=r"no classifier 'squeezenet1_' .did you mean 'squeezenet1_[01]'"):
        load_model("torchvision:squeezenet1_")

    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        ModelError, match=r"weights of torchvision:squeezenet1_1 could not be fetched.*no route to host"
    ):
        load_model("torchvision:squeezenet1_1")

    # What torchvision would have fetched lies in its cache from here on, so nothing is fetched.
    weights = models.get_model_weights("squeezenet1_1").DEFAULT
    cached = tmp_path / "checkpoints" / weights.url.rpartition("/")[2]
    network = models.squeezenet1_1().eval()
    torch.save(network.state_dict(), cached)
    loaded = load_model("torchvision:squeezenet1_1")
    assert (loaded.num_classes, loaded.input_shape, loaded.data) == (1000, (3, 224, 224), "imagenet")
    assert loaded.class_names is not None
    assert loaded.class_names[0] == "tench"
    assert loaded.transform is not None
    image = loaded.transform(picture(400, 300))
    assert image.size == (224, 224)
    expected = scores(network, weights.transforms()(picture(400, 300))[None])
    torch.testing.assert_close(scores(loaded, as_batch(image)), expected)

    text = transform_text(loaded.transform)
    assert text is not None
    assert json.loads(text)["steps"] == [
        {"step": "Resize", "size": [256], "interpolation": "bilinear"},
        {"step": "CenterCrop", "size": [224]},
    ]
    assert_rebuilds(loaded)

    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "ran",)

    torch.save({"classifier.1.bias": Malicious()}, cached)
    with pytest.raises(ModelError, match="could not be fetched or read"):
        load_model("torchvision:squeezenet1_1")
    assert not (tmp_path / "ran").exists()


def test_timm(tmp_path: Path) -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    import safetensors.torch

    with pytest.raises(UsageError, match=r"timm has no model 'resnet181'.*did you mean 'resnet18"):
        load_model("timm:resnet181")
    network = timm.create_model("test_vit", num_classes=4).eval()
    config = {
        "architecture": "test_vit",
        "num_classes": 4,
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "interpolation": "bicubic",
            "crop_pct": 0.8,
            "fixed_input_size": True,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "num_classes": 4,
            "label_names": ["a", "b", "c", "d"],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_model(f"timm:{tmp_path}")
    assert (loaded.num_classes, loaded.input_shape, loaded.class_names) == (4, (3, 160, 160), ("a", "b", "c", "d"))
    assert loaded.transform is not None
    image = loaded.transform(picture())
    assert image.size == (160, 160)
    data = timm.data.resolve_model_data_config(network, pretrained_cfg=config["pretrained_cfg"])
    expected = scores(network, timm.data.create_transform(**data, is_training=False)(picture())[None])
    torch.testing.assert_close(scores(loaded, as_batch(image)), expected)
    assert loaded.digest == load_model(f"timm:{tmp_path}").digest
    texts = {assert_rebuilds(loaded)}
    for changes in ({"crop_pct": 0.9}, {"interpolation": "bilinear"}, {"crop_mode": "squash"}, {"crop_mode": "border"}):
        cfg = config["pretrained_cfg"] | changes
        (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
        changed = load_model(f"timm:{tmp_path}")
        expected = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg))(picture())
        mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
        assert changed.transform is not None
        torch.testing.assert_close((as_batch(changed.transform(picture()))[0] - mean) / std, expected)
        texts.add(assert_rebuilds(changed))
    assert len(texts) == 5  # each change is in the text


def test_huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "emu"},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    processors = {
        # mean and std of the model's own; a resize of the shorter side and a crop; BGR without mean and std
        "vit": transformers.ViTImageProcessor(
            size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
        ),
        "convnext": transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        "mobilevit": transformers.MobileViTImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, do_flip_channel_order=True
        ),
        "efficientnet": transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, include_top=True),
    }
    digests, texts = [], []
    for name, processor in processors.items():
        folder = tmp_path / name
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
        loaded = load_model(f"hf:{folder}")
        assert (loaded.num_classes, loaded.input_shape) == (3, (3, 32, 32))
        assert loaded.class_names == ("cat", "dog", "emu")
        assert loaded.transform is not None
        image = loaded.transform(picture())
        assert image.size == (32, 32)
        expected = scores_of(network, processor, picture())
        torch.testing.assert_close(scores(loaded, as_batch(image)), expected, rtol=1e-4, atol=1e-5)
        digests.append(loaded.digest)
        texts.append(assert_rebuilds(loaded))
    assert len(set(digests)) == len(set(texts)) == len(processors)
    assert load_model(f"hf:{tmp_path / 'vit'}").digest == digests[0]
    # the order of colours alone is noticed, and so is a name that is no image processor's
    option = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    flips = []
    for flip in (False, True):
        transformers.MobileViTImageProcessor(do_flip_channel_order=flip, **option).save_pretrained(tmp_path / "vit")
        flips.append(load_model(f"hf:{tmp_path / 'vit'}").digest)
    assert flips[0] != flips[1]
    content = json.loads(texts[0])
    for bad in ({"processor": "AutoModel"}, {"processor": "os.system"}, {"options": {"size": {"height": 10**9}}}):
        with pytest.raises(ModelError, match=r"no image processor|numbers must be at most 8192"):
            rebuild_transform(json.dumps(content | bad))
    # weights that only a pickle holds are not read
    torch.save(network.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="could not be fetched or read"):
        load_model(f"hf:{tmp_path / 'vit'}")
    (tmp_path / "vit" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds config\.json"):
        load_model(f"hf:{tmp_path / 'vit'}")


def scores_of(network: Any, processor: Any, image: Any) -> Tensor:
    with torch.inference_mode():
        return network(**processor(images=image, return_tensors="pt")).logits
