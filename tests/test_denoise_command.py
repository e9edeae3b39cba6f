"""Denoisers as files and commands: trained, kept, shown, put before a classifier."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

from certify.cli import main
from certify.denoising.checkpoint import FILE, DenoiserConfig, load_denoiser, save_denoiser
from certify.denoising.job import DenoiseOptions, prepare_denoising, train_denoiser
from certify.denoising.show import show_denoiser
from certify.denoising.wrap import with_denoiser
from certify.errors import ModelError, UsageError
from certify.models import load_model
from certify.models.architectures import build_architecture
from certify.models.base import NoiseSpec
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig
from denoisers import DENOISERS, build_denoiser
from smoothing.training import TrainingConfig

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    network = build_architecture("mlp", num_classes=10, input_shape=SHAPE)
    save_checkpoint(folder, network, CheckpointConfig("mlp", 10, SHAPE))
    return folder


def denoiser_file(folder: Path, name: str = "unet", channels: int = 1) -> Path:
    torch.manual_seed(3)
    network = build_denoiser(name, channels)
    if name == "unet":
        torch.nn.init.normal_(network.exit.weight, std=0.1)
    return save_denoiser(folder, network, DenoiserConfig(name, channels, "gaussian", {"sigma": 0.25}, 0.25, "digits"))


@pytest.mark.parametrize("name", sorted(set(DENOISERS) - {"dncnn-wide", "dncnn", "memnet"}))
def test_files_give_the_network_back(tmp_path: Path, name: str) -> None:
    path = denoiser_file(tmp_path, name)
    torch.manual_seed(3)
    original = build_denoiser(name, 1)
    if name == "unet":
        torch.nn.init.normal_(original.exit.weight, std=0.1)
    x = torch.rand(2, *SHAPE)
    for spec in (tmp_path, path):
        network, config, digest = load_denoiser(spec)
        assert (config.denoiser, config.sigma, config.data) == (name, 0.25, "digits")
        assert not network.training
        with torch.no_grad():
            assert torch.equal(network(x, 0.25), original.eval()(x, 0.25))
    assert load_denoiser(path)[2] == digest


def test_damaged_files(tmp_path: Path) -> None:
    path = denoiser_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(ModelError, match="not a safetensors file, or is truncated"):
        load_denoiser(path)
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(ModelError, match="was changed after it was written"):
        load_denoiser(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="is not a denoiser of this program"):
        load_denoiser(path)
    with pytest.raises(ModelError, match="does not exist"):
        load_denoiser(tmp_path / "absent")


def test_a_pair_is_one_base_classifier(tmp_path: Path, classifier: Path) -> None:
    denoiser_file(tmp_path)
    model = load_model(str(classifier))
    pair = with_denoiser(model, str(tmp_path), sigma=None, input_shape=SHAPE)
    x = torch.rand(3, *SHAPE)
    network, _, _ = load_denoiser(tmp_path)
    with torch.no_grad():
        assert torch.equal(pair.classifier(x), model.classifier(network(x, 0.25)))
    assert pair.noise == NoiseSpec("gaussian", {"sigma": 0.25})
    assert (
        len({pair.digest, model.digest, with_denoiser(pair, str(tmp_path), sigma=None, input_shape=SHAPE).digest}) == 3
    )
    classical = with_denoiser(model, "classical:gaussian", sigma=0.5, input_shape=SHAPE)
    assert classical.digest not in (pair.digest, model.digest)
    assert classical.digest == with_denoiser(model, "classical:gaussian", sigma=0.5, input_shape=SHAPE).digest


@pytest.mark.parametrize(
    ("spec", "sigma", "shape", "error", "message"),
    [
        ("classical:median", 0.5, SHAPE, UsageError, "one of non-local-means, total-variation, gaussian"),
        ("classical:gaussian", None, SHAPE, UsageError, "must be told the noise level"),
        ("absent", 0.5, SHAPE, UsageError, "'absent' does not exist"),
        ("FILE", None, (3, 8, 8), ModelError, "denoises images of 1 channels, but the data have 3"),
        ("FILE", None, (64,), UsageError, "denoisers take images"),
    ],
)
def test_what_cannot_be_put_before_a_classifier(
    tmp_path: Path,
    classifier: Path,
    spec: str,
    sigma: float | None,
    shape: tuple[int, ...],
    error: type[Exception],
    message: str,
) -> None:
    denoiser_file(tmp_path)
    with pytest.raises(error, match=message):
        with_denoiser(load_model(str(classifier)), spec.replace("FILE", str(tmp_path)), sigma=sigma, input_shape=shape)


TRAIN = ["denoise", "train", "--data", "digits", "--sigma", "0.25", "--denoiser", "dncnn-small", "--max", "128"]


def test_train_and_show(tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "mse", tmp_path / "stability"
    assert main([*TRAIN, "--epochs", "2", "--quiet", "--out", str(first), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sigma"] == 0.25
    fine = ["--objective", "stability", "--classifier", str(classifier), "--start", str(first), "--epochs", "1"]
    assert main([*TRAIN, *fine, "--quiet", "--out", str(second)]) == 0
    assert "certify run MODEL --denoiser" in capsys.readouterr().out
    _, config, _ = load_denoiser(second)
    assert config.training["objective"]["name"] == "stability"
    assert config.training["start"] == str(first)
    assert len((second / "train.csv").read_text().splitlines()) == 2
    assert not (second / "training.pt").exists()
    picture = tmp_path / "strip.png"
    assert (
        main(["denoise", "show", str(second), "--data", "digits", "--count", "3", "--out", str(picture), "--json"]) == 0
    )
    images = json.loads(capsys.readouterr().out)["images"]
    assert len(images) == 3
    with Image.open(picture) as image:
        assert image.size[0] > 300


def test_depth_and_width_are_kept_shown_and_continued(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "mine", str(tmp_path / "x.png")
    line = [
        "denoise",
        "train",
        "--data",
        "digits",
        "--sigma",
        "0.25",
        "--denoiser",
        "dncnn",
        "--max",
        "64",
        "--epochs",
        "1",
    ]
    assert main([*line, "--depth", "4", "--width", "9", "--quiet", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == {"depth": 4, "width": 9}
    network, config, _ = load_denoiser(out)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert (len(convolutions), convolutions[0].out_channels) == (4, 9)
    assert config.sizes == {"depth": 4, "width": 9}
    assert main(["denoise", "show", str(out), "--data", "digits", "--count", "1", "--out", picture]) == 0
    assert "denoiser dncnn (depth 4, width 9)" in capsys.readouterr().out
    pair = with_denoiser(load_model(str(classifier)), str(out), sigma=None, input_shape=SHAPE)
    assert f"behind the denoiser {out}, dncnn (depth 4, width 9) (sigma 0.25)" in pair.description
    # Fine-tuning takes the sizes of the network that it starts from, and no others.
    fine = [*line, "--start", str(out), "--quiet", "--out", str(tmp_path / "fine")]
    assert main([*fine, "--width", "8"]) == 2
    assert f"{out} has width 9, got --width 8" in capsys.readouterr().err
    assert main(fine) == 0
    assert load_denoiser(tmp_path / "fine")[1].sizes == {"depth": 4, "width": 9}


def test_sizes_are_part_of_what_a_denoiser_is(tmp_path: Path) -> None:
    def saved(folder: str, sizes: dict[str, int], recorded: dict[str, int]) -> str:
        torch.manual_seed(3)
        config = DenoiserConfig("dncnn-small", 1, "gaussian", {"sigma": 0.25}, 0.25, sizes=recorded)
        save_denoiser(tmp_path / folder, build_denoiser("dncnn-small", 1, sizes), config)
        return load_denoiser(tmp_path / folder)[2]

    # Files of before sizes could be named have none, and the digest that they had.
    assert saved("old", {}, {}) == saved("new", {}, {"depth": 6, "width": 32})
    assert saved("other", {"depth": 7}, {"depth": 7, "width": 32}) != saved("old", {}, {})
    with pytest.raises(ModelError, match=r"wrong|missing|unexpected|must"):
        saved("wrong", {"depth": 7}, {})
    with pytest.raises(ModelError, match="describes no denoiser that can be built"):
        saved("unknown", {}, {"height": 7})


def test_figures_of_an_identity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_denoiser(
        tmp_path, build_denoiser("unet", 1), DenoiserConfig("unet", 1, "gaussian", {"sigma": 0.25}, 0.25)
    )  # untrained, it changes nothing
    for entry in show_denoiser(str(tmp_path), "digits", tmp_path / "x.png", count=2):
        assert entry.psnr == pytest.approx(entry.psnr_noisy)
        assert entry.ssim == pytest.approx(entry.ssim_noisy)
        assert 8 < entry.psnr < 20  # sigma 0.25 is 12 dB; clipping removes some noise
    better = show_denoiser("classical:non-local-means", "digits", tmp_path / "x.png", sigma=0.1, count=8)
    assert sum(entry.psnr - entry.psnr_noisy for entry in better) > 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--denoiser", "resnet"], 2, "denoiser must be one of dncnn"),
        (["--objective", "l1"], 2, "objective must be one of mse"),
        (["--objective", "stability"], 2, "needs --classifier MODEL"),
        (["--mse-weight", "1"], 2, "mse_weight belongs to the objective stability"),
        (["--max", "0"], 2, "number of images must be at least 1"),
        (["--sigma", "-1"], 2, "sigma must be positive"),
        (["--start", "absent"], 1, "absent does not exist"),
        (["--noise", "pareto"], 2, "pareto"),
        (["--epochs", "0"], 2, "epochs must be"),
        (["--depth", "2"], 2, "depth must be at least 3, got depth=2"),
        (["--width", "0"], 2, "width must be at least 1, got width=0"),
        (["--width", "100000000"], 2, "width must be a whole number of at most 2,000, got width=100000000"),
        (
            ["--denoiser", "unet", "--depth", "4"],
            2,
            "the denoiser unet takes width, got depth; depth belongs to dncnn, ",
        ),
        (["--denoiser", "memnet", "--depth", "4"], 2, "the denoiser memnet takes width, got depth"),
        (["--denoiser", "unet", "--width", "6"], 2, "width must be a multiple of 4"),
        (["--dept", "4"], 2, "No such option"),
    ],
)
def test_bad_options(
    tmp_path: Path, options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, *options, "--quiet", "--out", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / FILE).exists()


def test_a_network_beyond_this_machine_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[str] = []

    def build(*arguments: Any) -> torch.nn.Module:
        network = build_denoiser(*arguments)
        built.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr("certify.denoising.job.build_denoiser", build)
    monkeypatch.setattr("certify.denoising.job.os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}.__getitem__)
    out = str(tmp_path / "out")
    for name, advice in (("dncnn", "--depth or --width"), ("unet", "--width")):
        line = [*TRAIN, "--denoiser", name, "--width", "800", "--quiet", "--out", out]
        assert main(line) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"this machine has 1 GiB: lower {advice}" in error
        assert "width=800" in error
    assert built == ["meta", "meta"]
    monkeypatch.delattr("certify.denoising.job.os.sysconf")
    assert main([*TRAIN, "--width", "4", "--epochs", "1", "--quiet", "--out", out]) == 0, (
        "where nobody knows, it is tried"
    )


def test_an_interrupted_training_goes_on_with_its_own_sizes_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    config = TrainingConfig(epochs=2, batch_size=128, optimizer="adam", learning_rate=1e-3, weight_decay=1e-4)
    parameters: Any = {"noise": "gaussian", "parameters": (("sigma", 0.25),), "maximum": 128, "config": config}
    options = DenoiseOptions("digits", out, denoiser="dncnn", sizes=(("depth", 4), ("width", 9)), **parameters)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(prepare_denoising(options), on_epoch=stop)
    line = ["denoise", "train", "--data", "digits", "--sigma", "0.25", "--denoiser", "dncnn", "--max", "128"]
    line += ["--epochs", "2", "--quiet", "--device", "cpu", "--out", str(out), "--depth", "4"]
    assert main([*line, "--width", "8"]) == 1
    error = capsys.readouterr().err
    assert "sizes" in error
    assert "9" in error
    assert main([*line, "--width", "9"]) == 0, capsys.readouterr().err
    assert len((out / "train.csv").read_text().splitlines()) == 3, "two epochs, the first of them from before"


def test_a_denoiser_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    denoiser_file(tmp_path)
    arguments: list[Any] = [*TRAIN, "--epochs", "1", "--quiet", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "already holds a denoiser" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_a_run_behind_a_denoiser_resumes_and_replays(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denoiser_file(tmp_path / "denoiser")
    run = ["run", str(classifier), "--data", "digits", "--n", "200", "--max", "3", "--quiet", "--no-preflight"]
    arguments = [*run, "--denoiser", str(tmp_path / "denoiser"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0, capsys.readouterr().err
    assert main(arguments) == 0
    assert main(["audit", str(tmp_path / "run"), "--replay", "2"]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main([*run, "--sigma", "0.25", "--noise", "gaussian", "--out", str(tmp_path / "run")]) == 1
    assert "model" in capsys.readouterr().err
    classical = [*run, "--sigma", "0.25", "--noise", "gaussian", "--denoiser", "classical:gaussian"]
    assert main([*classical, "--out", str(tmp_path / "classical")]) == 0, capsys.readouterr().err
    assert main(["audit", str(tmp_path / "classical"), "--replay", "1"]) == 0, capsys.readouterr()
