"""From what was asked for to a verification run that is fully decided; everything that can be refused is refused here."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from certify.datasets import load_dataset
from certify.datasets.base import Dataset
from certify.datasets.selection import parse_shard, select_indices, take_shard
from certify.errors import DatasetError, ModelError, UsageError
from certify.models import load_model
from certify.models.base import LoadedModel, transform_text
from certify.setup import pick_device
from certify.verification.methods import MethodOptions, check_methods, check_solver
from certify.verification.plan import VerifyPlan
from certify.verification.subject import Balls, Network, Properties, module_network, onnx_network
from smoothing.threat import Norm
from verify.ball import Ball
from verify.lipschitz.proofs import LipschitzProofs
from verify.vnnlib import read_property_file

AGAINST = ("label", "prediction")
PIXELS = (0.0, 1.0)
"""The interval that clipped balls are cut by: data sets hold pixels in [0, 1]."""


@dataclass(frozen=True)
class VerifyOptions:
    """What a user asks for: MODEL, data, norm, eps and clip; or two files.

    Attributes:
        out: Run folder.
        methods: The rungs.
        model: MODEL, as on the command line; None where `onnx` is given.
        data: Data set name or path.
        norm: Norm of the balls.
        eps: Their radius, or the largest one looked at with `search`.
        clip: Whether balls are cut by [0, 1]; there is no default.
        search: Search for radii.
        onnx: ONNX file, with `vnnlib`.
        vnnlib: VNN-LIB file.
        against: Which class is to win: "label" or "prediction".
        budget: Seconds per input.
        batch: Inputs at once; default: 16, and 1 where linear or mixed-integer programs are solved.
        jobs: Processes for linear programs.
        data_root: Folder of the data sets.
        split: "test" or "train".
        stride: Take every stride-th input.
        skip: Leave out the first inputs.
        maximum: Take at most this many.
        indices: Take these.
        device: Where bounds are computed; default: CUDA where there is one.
        num_classes: Number of classes, for models that do not say.
        architecture: Architecture of a plain state dict.
        normalisation: Normalisation that goes with weights which come without one.
        trust_pickle: Unpickle model files that need it.
        command: The command line, for the record.
        shard: "i/n" or "auto": part i of n of the chosen inputs, in OUT/shards/i-of-n.
        denoiser: Folder of a trained denoiser that stands before the model; None for none.
        environ: Where shard "auto" looks; `os.environ` from the command line.
    """

    out: Path
    methods: MethodOptions
    model: str | None = None
    data: str | None = None
    norm: str | None = None
    eps: float | int | None = None
    clip: bool | None = None
    search: bool = False
    onnx: Path | None = None
    vnnlib: Path | None = None
    against: str = "label"
    budget: float | int | None = None
    batch: int | None = None
    jobs: int = 1
    data_root: Path | None = None
    split: str = "test"
    stride: int = 1
    skip: int = 0
    maximum: int | None = None
    indices: str | None = None
    device: str | None = None
    num_classes: int | None = None
    architecture: str | None = None
    normalisation: str | None = None
    trust_pickle: bool = False
    command: tuple[str, ...] = field(default=())
    shard: str | None = None
    denoiser: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def one_by_one(self) -> bool:
        """Whether a rung is among the methods that sees one input after the other."""
        return any(name in ("lp-last", "lp-all", "milp") for name in self.methods.names)


def prepare(options: VerifyOptions) -> VerifyPlan:
    """Load network and data, translate the network, and check that everything fits together.

    Raises:
        UsageError: If an option is missing, unknown or out of range.
        UnsupportedOperatorError: If operators of the network are not covered; names all of them.
        ModelError: If the model cannot be loaded, or is no network.
        DatasetError: If the data cannot be loaded or do not fit.
    """
    for name, value in (("budget", options.budget), ("batch", options.batch), ("jobs", options.jobs)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name} must be positive and finite, got {name}={value}")
    check_solver(options.methods.sdp_solver)
    if options.onnx is not None or options.vnnlib is not None:
        return _prepare_file(options)
    return _prepare_data(options)


def load_network(
    spec: str,
    shape: tuple[int, ...] | None,
    *,
    num_classes: int | None = None,
    architecture: str | None = None,
    normalisation: str | None = None,
    trust_pickle: bool = False,
    denoiser: str | None = None,
) -> tuple[Network, Any]:
    """Load a model as a network that can be verified; returns it with its image transform (None for none).

    Args:
        spec: MODEL.
        shape: Shape of the inputs.
        num_classes: As in `load_model`.
        architecture: As in `load_model`.
        normalisation: As in `load_model`.
        trust_pickle: As in `load_model`.
        denoiser: Folder of a trained denoiser that stands before the model.

    Raises:
        ModelError: If the model is no `nn.Module` (a service, a callable): there is nothing to look into.
        UsageError: If a denoiser is put before an ONNX file, or is none.
    """
    file = spec.removeprefix("onnx:")
    if spec.startswith("onnx:") or (file.endswith(".onnx") and Path(file).is_file()):
        if denoiser is not None:
            raise UsageError(f"--denoiser takes a MODEL that is a module, got the ONNX file {file}")
        return onnx_network(Path(file).expanduser(), spec), None
    model = load_model(
        spec,
        num_classes=num_classes,
        input_shape=shape,
        architecture=architecture,
        normalisation=normalisation,
        trust_pickle=trust_pickle,
    )
    if not isinstance(model.classifier, nn.Module):
        raise ModelError(
            f"verification looks into the network, so that MODEL must be a module or ONNX file, got {spec}"
        )
    if denoiser is not None:
        model = _behind(model, denoiser, shape)
    network_shape = shape or model.input_shape
    if network_shape is None:
        raise ModelError(f"the shape of the inputs must be known to translate a network, got {spec} without one")
    module = model.classifier
    assert isinstance(module, nn.Module)
    network = module_network(
        module,
        tuple(network_shape),
        digest=model.digest,
        spec=spec,
        description=model.description,
        transform=transform_text(model.transform),
        trained_with=None if model.noise is None else str(model.noise),
    )
    return network, model.transform


def _behind(model: LoadedModel, denoiser: str, shape: tuple[int, ...] | None) -> LoadedModel:
    """Put a denoiser before the model: the pair is one network, verified as one."""
    from certify.denoising.wrap import CLASSICAL_PREFIX, with_denoiser

    if denoiser.startswith(CLASSICAL_PREFIX):
        raise UsageError(f"verification looks into the denoiser, which must be a trained network, got {denoiser}")
    if shape is None:
        raise UsageError("a denoiser needs images, got a data set whose inputs have no one shape")
    return with_denoiser(model, denoiser, sigma=None, input_shape=tuple(shape))


def _prepare_data(options: VerifyOptions) -> VerifyPlan:
    if options.model is None:
        raise UsageError("verify needs a MODEL with --data, or --onnx FILE with --vnnlib FILE, got neither")
    missing = [f"--{name}" for name in ("data", "norm", "eps") if getattr(options, name) is None]
    if missing:
        raise UsageError(f"verify MODEL needs --data, --norm and --eps, got no {', '.join(missing)}")
    if options.clip is None:
        raise UsageError(
            "one of --clip and --no-clip must be given: a ball cut by [0, 1] is a smaller set, and its certificates claim "
            "less; got neither"
        )
    if options.against not in AGAINST:
        raise UsageError(f"against must be one of {', '.join(AGAINST)}, got against={options.against!r}")
    assert options.norm is not None
    assert options.eps is not None
    assert options.data is not None
    clip = PIXELS if options.clip else None
    ball = Ball(options.norm, options.eps, clip=clip)
    norm = Norm.parse(options.norm)
    if options.search and not ball.eps > 0:
        raise UsageError(f"eps must be positive with --radius, the largest radius looked at, got eps={options.eps}")
    device = pick_device(options.device)
    data = load_dataset(options.data, root=options.data_root, split=options.split)
    network, transform = load_network(
        options.model,
        data.shape,
        num_classes=options.num_classes,
        architecture=options.architecture,
        normalisation=options.normalisation,
        trust_pickle=options.trust_pickle,
        denoiser=options.denoiser,
    )
    if transform is not None:
        data = replace(data, transform=transform)
    check_methods(options.methods, network.graph, norm, search=options.search)
    selected = tuple(
        select_indices(
            len(data), stride=options.stride, skip=options.skip, maximum=options.maximum, indices=options.indices
        )
    )
    shard = None if options.shard is None else parse_shard(options.shard, options.environ)[:2]
    indices = tuple(take_shard(selected, shard))
    _check_fit(network, data, indices)
    return VerifyPlan(
        network=network,
        subject=Balls(network, data, norm, clip, options.against),
        indices=indices,
        methods=options.methods,
        eps=ball.eps if isinstance(ball.eps, float) else float(ball.eps),
        search=options.search,
        budget=None if options.budget is None else float(options.budget),
        batch=options.batch or (1 if options.one_by_one else 16),
        jobs=options.jobs,
        device=device,
        out=options.out if shard is None else options.out / "shards" / f"{shard[0]}-of-{shard[1]}",
        lipschitz=LipschitzProofs(network.graph, options.methods.sdp_solver),
        settings={
            **_settings(options, indices),
            "selected": list(selected),
            "shard": None if shard is None else list(shard),
            "denoiser": options.denoiser,
            "model": options.model,
            "data": options.data,
            "data_root": None if options.data_root is None else str(options.data_root),
            "data_size": len(data),
            "shape": list(data.require_shape()),
            "trained_with": network.trained_with,
            "class_names": list(data.class_names),
        },
    )


def _check_fit(network: Network, data: Dataset, indices: tuple[int, ...]) -> None:
    size, shape = network.graph[0].size, data.require_shape()
    found = 1
    for side in shape:
        found *= side
    if found != size:
        raise ModelError(f"the network takes inputs of shape {network.graph.input_shape}, but {data.name} has {shape}")
    labels = data.labels(list(indices))
    if int(labels.max()) >= network.graph.num_outputs:
        raise DatasetError(
            f"labels must be in 0..{network.graph.num_outputs - 1}, the network's outputs, got {int(labels.max())}"
        )


def _prepare_file(options: VerifyOptions) -> VerifyPlan:
    if options.onnx is None or options.vnnlib is None:
        raise UsageError("--onnx and --vnnlib must be given together, got one of them")
    own = ("model", "data", "norm", "eps", "clip", "shard", "denoiser")
    given = [name for name in own if getattr(options, name) is not None] + (["radius"] if options.search else [])
    if given:
        raise UsageError(f"with --vnnlib the file says what is to be proved, got also {', '.join(given)}")
    file = read_property_file(options.vnnlib)
    properties = tuple(file.properties)
    network = onnx_network(options.onnx, f"onnx:{options.onnx}")
    check_methods(options.methods, network.graph, None)
    inputs, outputs = network.graph[0].size, network.graph.num_outputs
    # As declared: a file whose assertions contradict each other has no boxes, and may still be about another network.
    if (file.inputs, file.outputs) != (inputs, outputs):
        raise UsageError(
            f"{options.vnnlib} must be about {inputs} inputs and {outputs} outputs, those of the network, got "
            f"{file.inputs} and {file.outputs}"
        )
    indices = tuple(range(len(properties)))
    sha256 = hashlib.sha256(options.vnnlib.read_bytes()).hexdigest()
    return VerifyPlan(
        network=network,
        subject=Properties(network, properties, sha256),
        indices=indices,
        methods=options.methods,
        eps=None,
        search=False,
        budget=None if options.budget is None else float(options.budget),
        batch=1,
        jobs=options.jobs,
        device=pick_device(options.device),
        out=options.out,
        settings={
            **_settings(options, indices),
            "onnx": str(options.onnx),
            "vnnlib": str(options.vnnlib),
            "model": f"onnx:{options.onnx}",
        },
    )


def _settings(options: VerifyOptions, indices: tuple[int, ...]) -> dict[str, Any]:
    return {
        "indices": list(indices),
        "selected": list(indices),
        "command": list(options.command),
        "trust_pickle": options.trust_pickle,
        "architecture": options.architecture,
        "normalisation": options.normalisation,
        "num_classes": options.num_classes,
        "shard": None,
    }
