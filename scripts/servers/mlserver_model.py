"""An ONNX classifier behind MLServer's Open Inference Protocol; runs in an environment of its own with mlserver."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxClassifier(MLModel):
    """Runs the file of the setting `parameters.uri`; one input "image" FP32 [n, c, h, w], one output "scores"."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        [scores, *_] = self.session.run(None, {self.session.get_inputs()[0].name: image})
        return InferenceResponse(
            model_name=self.name, model_version=self.version, outputs=[NumpyCodec.encode_output("scores", scores)]
        )
