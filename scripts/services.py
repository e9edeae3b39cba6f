"""Starts and stops real prediction servers on localhost, each in a virtual environment of its own.

As a command it serves an ONNX file (default: a small classifier of `digits`, trained under noise in a few seconds) until
Ctrl-C:

    python scripts/services.py mlserver --port 8080 --environments ~/.cache/certify-servers
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
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


def small_classifier(
    sigma: float, data_name: str = "digits", root: Path | None = None, architecture: str = "cnn", examples: int = 5000
) -> torch.nn.Module:
    """Train a network under noise, on the first so many training images; a few seconds for the small one of `digits`.

    Args:
        sigma: Of the Gaussian noise.
        data_name: Data set.
        root: Its folder, where it has one.
        architecture: A key of `ARCHITECTURES`.
        examples: Training images at most.
    """
    from certify.datasets import load_dataset
    from certify.models.architectures import build_architecture
    from smoothing import Gaussian
    from smoothing.training import NoiseAugmentation, Trainer, TrainingConfig

    data = load_dataset(data_name, split="train", root=root)
    model = build_architecture(architecture, num_classes=data.num_classes, input_shape=data.require_shape())
    law = Gaussian(data.require_shape(), sigma=sigma)
    trainer = Trainer(model, law, NoiseAugmentation(), TrainingConfig(epochs=10, batch_size=64, learning_rate=0.05))
    some = range(min(examples, len(data)))
    for _ in trainer.fit(data.inputs(some), torch.from_numpy(data.labels(some))):
        pass
    return model.eval()


@contextlib.contextmanager
def running(name: str, model: Path, environments: Path, work: Path, port: int | None = None) -> Iterator[Adapter]:
    """Serve an ONNX file by the named server until the block ends; yields the adapter that asks it.

    Args:
        name: A key of `PACKAGES`.
        model: ONNX file, input "image" float32 [n, channel, height, width], output scores [n, classes].
        environments: Folder of the servers' virtual environments.
        work: Folder for logs and settings.
        port: Where the server listens; None: a free port.
    """
    start: Callable[[Path, Path, Path, int], tuple[subprocess.Popen[bytes], str, Adapter]]
    start = {"mlserver": _mlserver, "litserve": _litserve}[name]
    process, health, adapter = start(environment(environments, name), model, work, port or _free_port())
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


def _mlserver(python: Path, model: Path, work: Path, http: int) -> tuple[subprocess.Popen[bytes], str, Adapter]:
    folder = work / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    grpc, metrics = _free_port(), _free_port()
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


def _litserve(python: Path, model: Path, work: Path, port: int) -> tuple[subprocess.Popen[bytes], str, Adapter]:
    command = [str(python), str(HERE / "servers" / "litserve_app.py"), str(model.resolve()), str(port)]
    process = _launch(command, work, work / "litserve.log")
    url = f"http://127.0.0.1:{port}"
    adapter = HttpJson(f"{url}/predict", body={"image": "{{png_base64}}"}, label="label", version="version")
    return process, f"{url}/health", adapter


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2) as response:
            if response.status == 200:
                return
        time.sleep(0.3)
    raise RuntimeError(f"the server did not start; the end of its log:\n{log.read_text(errors='replace')[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=sorted(PACKAGES))
    parser.add_argument("--model", type=Path, help="ONNX file; default: a small classifier of digits")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "model.onnx"
        if options.model is None:
            export_onnx(small_classifier(0.25), (1, 8, 8), model)
        with running(options.server, model, options.environments, Path(folder), options.port):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or the server would outlive this process
            print(f"{options.server} listens at http://127.0.0.1:{options.port}; Ctrl-C stops it", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
