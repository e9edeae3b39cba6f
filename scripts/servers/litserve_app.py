"""An ONNX classifier behind LitServe: PNG as base64 in, class number out; runs in an environment of its own.

Usage: python litserve_app.py MODEL.onnx PORT
"""

import base64
import io
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from PIL import Image


class OnnxClassifier(litserve.LitAPI):
    """Answers {"label": ..., "version": ...}."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request, **kwargs):  # type: ignore[no-untyped-def]  # LitServe reads the annotation
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(request["image"]))))
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255.0)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        return self.session.run(None, {self.session.get_inputs()[0].name: x})[0]

    def encode_response(self, output: Any, **kwargs: Any) -> Any:
        return {"label": int(np.argmax(output[0])), "version": "1"}


if __name__ == "__main__":
    server = litserve.LitServer(OnnxClassifier(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
