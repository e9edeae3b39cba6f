"""Starts and stops real prediction servers on localhost, each in a virtual environment of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from certify.blackbox import Adapter
from certify.blackbox.http_json import HttpJson
from certify.blackbox.oip import OpenInference

HERE = Path(__file__).resolve().parent
PACKAGES = {"mlserver": ["mlserver", "onnxruntime"], "litserve": ["litserve", "onnxruntime", "pillow", "numpy"]}


def environment(folder: Path, name: str) -> Path:
    """Return the interpreter of the server's environment, which is made on first use."""
    python = folder / name / "bin" / "python"
    ready = folder / name / "ready"
    if not ready.exists():
        print(f"installing {name} into {folder / name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
        ready.touch()
    return python


def export_onnx(classifier: torch.nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a classifier on [n, *shape] as ONNX with a free batch size."""
    with warnings.catch_warnings():
        # The exporter that needs no further package; deprecated, but the file is what counts.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            classifier.eval(),
            (torch.zeros(2, *shape),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
        )


def small_classifier(sigma: float) -> torch.nn.Module:
    """Train the small network for `digits` under noise; a few seconds."""
    from certify.datasets import load_dataset
    from certify.models.architectures import build_architecture
    from smoothing import Gaussian
    from smoothing.training import NoiseAugmentation, Trainer, TrainingConfig

    data = load_dataset("digits", split="train")
    model = build_architecture("cnn", num_classes=data.num_classes, input_shape=data.require_shape())
    law = Gaussian(data.require_shape(), sigma=sigma)
    trainer = Trainer(model, law, NoiseAugmentation(), TrainingConfig(epochs=10, batch_size=64, learning_rate=0.05))
    everything = range(len(data))
    for _ in trainer.fit(data.inputs(everything), torch.from_numpy(data.labels(everything))):
        pass
    return model.eval()


@contextlib.contextmanager
def running(name: str, model: Path, environments: Path, work: Path) -> Iterator[Adapter]:
    """Serve an ONNX file by the named server until the block ends; yields the adapter that asks it."""
    start: Callable[[Path, Path, Path], tuple[subprocess.Popen[bytes], str, Adapter]]
    start = {"mlserver": _mlserver, "litserve": _litserve}[name]
    process, health, adapter = start(environment(environments, name), model, work)
    try:
        _wait(process, health, work / f"{name}.log")
        yield adapter
    finally:
        # LitServe's children outlive their parent and would keep the port: the whole group has to go.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _launch(command: list[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE / "servers")}
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=folder, env=variables, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def _mlserver(python: Path, model: Path, work: Path) -> tuple[subprocess.Popen[bytes], str, Adapter]:
    folder = work / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    http, grpc, metrics = _free_port(), _free_port(), _free_port()
    server = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    settings = {
        "name": "classifier",
        "implementation": "mlserver_model.OnnxClassifier",
        "parameters": {"uri": str(model.resolve()), "version": "1"},
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1]}],
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(settings))
    process = _launch([str(python.parent / "mlserver"), "start", "."], folder, work / "mlserver.log")
    url = f"http://127.0.0.1:{http}"
    return process, f"{url}/v2/models/classifier/ready", OpenInference(url, "classifier", batch=16)


def _litserve(python: Path, model: Path, work: Path) -> tuple[subprocess.Popen[bytes], str, Adapter]:
    port = _free_port()
    command = [str(python), str(HERE / "servers" / "litserve_app.py"), str(model.resolve()), str(port)]
    process = _launch(command, work, work / "litserve.log")
    url = f"http://127.0.0.1:{port}"
    adapter = HttpJson(f"{url}/predict", body={"image": "{{png_base64}}"}, label="label", version="version")
    return process, f"{url}/health", adapter


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2) as response:
            if response.status == 200:
                return
        time.sleep(0.3)
    raise RuntimeError(f"the server did not start; the end of its log:\n{log.read_text(errors='replace')[-2000:]}")
