"""From what was asked for to a run that is fully decided: model, data, law and settings, checked before anything starts."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from certify.cache import boundary_cache, use_cache
from certify.datasets import Dataset, load_dataset
from certify.datasets.selection import parse_shard, select_indices, take_shard
from certify.errors import UsageError
from certify.estimators import EstimatorOptions, build_estimator, check_estimator
from certify.laws import law_text
from certify.models import load_model
from certify.models.base import LoadedModel
from certify.noise_choice import check_version, narrow_noise, settle_noise
from certify.run_plan import RunPlan
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import LAWS, make_law, try_law
from smoothing.forward import ForwardSettings
from smoothing.noise import check_seed
from smoothing.noise_table import rebuild_noise
from smoothing.threat import Norm

IN_PROCESS = ("onnxruntime",)
"""Adapters that run a file in this process, whose path MODEL then is."""

_UNTRAINED = "the model does not say that it was trained with noise: expect small radii"


@dataclass(frozen=True)
class RunOptions:
    """What a user asks for; None means "take it from the model" or "the default".

    Attributes:
        model: MODEL, as on the command line.
        data: Data set name or path.
        data_root: Folder of the data sets.
        split: "test" or "train".
        noise: Name of the law; default: the one that the model was trained with.
        parameters: The law's parameters by name, for instance {"sigma": 0.5}; those that are None count as not given.
        norm: Norm of the certificates.
        convert_from: Norm to prove the radius in before it is converted to `norm`.
        n0: Selection votes.
        n: Estimation votes.
        alpha: Error probability per input.
        estimator: Which policy over votes, and its parameters, where it is not "fixed" with n0 and n.
        noise_version: "torch-block-v1", "philox-int-v1", or "auto": what the folder has, else integer noise where data and
            law allow it.
        seed: Seed of the noise.
        batch_size: Rows of a forward pass; default 256 on CPUs, 1024 on GPUs.
        precision: "fp32", "bf16" or "fp16".
        channels_last: NHWC memory for image batches.
        compile: Use `torch.compile`.
        device: For instance "cpu" or "cuda"; default: CUDA where there is one.
        stride: Certify every stride-th input.
        skip: Leave out the first inputs.
        maximum: Certify at most this many.
        indices: Certify these, for instance "0,5,10-20".
        shard: "i/n" or "auto".
        num_classes: Number of classes, for models that do not say.
        architecture: Architecture of a plain state dict.
        normalisation: Normalisation that goes with weights which come without one.
        trust_pickle: Unpickle model files that need it.
        service: How a prediction service is asked, where the model is the address of one
            (`certify.blackbox.spec.ServiceOptions`); None: the defaults.
        denoiser: Folder of a trained denoiser, or "classical:NAME", that stands before the model; None for none.
        out: Run folder.
        command: The command line, for the record.
    """

    model: str
    data: str
    data_root: Path | None = None
    split: str = "test"
    noise: str | None = None
    parameters: tuple[tuple[str, float | None], ...] = ()
    norm: str = "l2"
    convert_from: str | None = None
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    estimator: EstimatorOptions = field(default_factory=EstimatorOptions)
    noise_version: str = "auto"
    seed: int = 0
    batch_size: int | None = None
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    device: str | None = None
    stride: int = 1
    skip: int = 0
    maximum: int | None = None
    indices: str | None = None
    shard: str | None = None
    num_classes: int | None = None
    architecture: str | None = None
    normalisation: str | None = None
    trust_pickle: bool = False
    denoiser: str | None = None
    service: Any = None
    out: Path = Path("runs/latest")
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A decided run, and what the user should be told about how it was decided."""

    plan: RunPlan
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def prepare(options: RunOptions, environ: dict[str, str]) -> Prepared:
    """Load model and data, settle the law, and check that everything fits together.

    Cheap checks come first, so that a typo in a norm is not found after a minute of loading.

    Raises:
        UsageError: If an option is unknown or out of range.
        ModelError: If the model cannot be loaded or does not fit.
        DatasetError: If the data cannot be loaded or do not fit.
        UnsupportedNormError: If no radius is proved for the norm.
    """
    use_cache()
    norm = Norm.parse(options.norm)
    convert_from = None if options.convert_from is None else Norm.parse(options.convert_from)
    check_estimator(options.estimator, options.n0, options.n, options.alpha)
    check_version(options.noise_version)
    check_seed(options.seed)
    device = pick_device(options.device)
    forward = ForwardSettings(
        options.batch_size if options.batch_size is not None else (256 if device.type == "cpu" else 1024),
        options.precision,
        options.channels_last,
        options.compile,
    )
    if options.noise is not None:
        # Name, parameters and norm are checked before anything is loaded, as far as they do not depend on the shape.
        trial = try_law(options.noise, **_given(options))
        if trial is not None:
            trial.require_norm(norm if convert_from is None else convert_from)
    shard, shard_note = (None, None)
    if options.shard is not None:
        position, count, shard_note = parse_shard(options.shard, environ)
        shard = (position, count)
    data = load_dataset(options.data, root=options.data_root, split=options.split)
    service = _service(options, data)
    model = (
        service.as_model(options.model)
        if service is not None
        else load_model(
            options.model,
            num_classes=options.num_classes,
            input_shape=data.shape,
            architecture=options.architecture,
            normalisation=options.normalisation,
            trust_pickle=options.trust_pickle,
        )
    )
    if model.transform is not None:
        data = replace(data, transform=model.transform)
    if options.denoiser is not None and service is None:
        from certify.denoising.wrap import with_denoiser

        # A classical denoiser is told the sigma of the law, which must therefore be known before the model is complete.
        known = options.noise is not None or model.noise is not None
        sigma = settle_law(options, model, data.require_shape())[0].sigma if known else _given(options).get("sigma")
        model = with_denoiser(model, options.denoiser, sigma=sigma, input_shape=data.require_shape())
    law, warnings = settle_law(options, model, data.require_shape())
    if service is not None:
        # Nobody but its owner knows how a service was trained.
        warnings = [warning for warning in warnings if warning != _UNTRAINED]
    selected = select_indices(
        len(data), stride=options.stride, skip=options.skip, maximum=options.maximum, indices=options.indices
    )
    indices = take_shard(selected, shard)
    out = options.out if shard is None else options.out / "shards" / f"{shard[0]}-of-{shard[1]}"
    settings: dict[str, Any] = {
        "model": options.model,
        "data": options.data,
        "data_root": None if options.data_root is None else str(options.data_root),
        "indices": list(indices),
        "selected": list(selected),
        "data_size": len(data),
        "class_names": list(data.class_names),
        "shard": None if shard is None else list(shard),
        "command": list(options.command),
        "trust_pickle": options.trust_pickle,
        "architecture": options.architecture,
        "normalisation": options.normalisation,
        "num_classes": options.num_classes,
        "denoiser": options.denoiser,
        "service": _service_settings(service),
        "grid": data.grid,
        "model_description": model.description,
        "model_noise": None
        if model.noise is None
        else {"name": model.noise.name, "parameters": model.noise.parameters},
    }
    noise, noise_note = settle_noise(options.noise_version, law, data.grid, model.digest, out)
    narrow = narrow_noise(law, noise)
    if narrow is not None:
        warnings = [narrow, *warnings]
    slack = rebuild_noise(noise, law, options.seed, device).probability_slack
    estimator = build_estimator(
        options.estimator,
        law,
        norm,
        n0=options.n0,
        n=options.n,
        alpha=options.alpha,
        convert_from=None if convert_from is norm else convert_from,
        slack=slack,
        cache=boundary_cache(),
    )
    plan = RunPlan(
        model=model,
        data=data,
        indices=tuple(indices),
        law=law,
        norm=norm,
        convert_from=None if convert_from is norm else convert_from,
        estimator=estimator,
        seed=options.seed,
        forward=forward,
        device=device,
        out=out,
        settings=settings,
        noise=noise,
        service=service,
    )
    plan.check()
    if service is not None:
        from certify.blackbox.running import check_service_plan

        check_service_plan(plan)
    notes = tuple(note for note in (shard_note, noise_note) if note is not None)
    return Prepared(plan, notes, tuple(warnings))


def _service(options: RunOptions, data: Dataset) -> Any:
    """Return the prediction service that the model's text is the address of; None where it is another model.

    Raises:
        UsageError: If its options do not fit, or the packages that it needs are not installed.
    """
    if not options.model.startswith(("http://", "https://")):
        if options.service is None:
            return None
        if options.service.from_record is None and options.service.adapter not in IN_PROCESS:
            raise UsageError("the options of a prediction service need the address of one as MODEL: https://...")
    try:
        from certify.blackbox.spec import ServiceOptions, build_service
    except ImportError as error:
        raise UsageError(f"prediction services need {error.name}: pip install 'wulff[api]'") from None
    chosen = options.service or ServiceOptions()
    service = build_service(options.model, chosen, data.class_names, options.num_classes or data.num_classes)
    if options.denoiser is None:
        return service
    shape = data.require_shape()
    sigma = make_law(options.noise, shape, **_given(options)).sigma if options.noise is not None else None
    return service.behind(options.denoiser, sigma, shape[0])


def _service_settings(service: Any) -> dict[str, Any] | None:
    """Return how a service is asked, as far as a reader of its certificates has to know; None where there is none."""
    if service is None:
        return None
    return {
        "canaries": service.canaries,
        "random": service.options.is_random,
        "from_record": service.options.from_record is not None,
    }


def settle_law(
    options: RunOptions, model: LoadedModel, shape: tuple[int, ...]
) -> tuple[SmoothingDistribution, list[str]]:
    """Return the law over `shape`: what was asked for, else what the model was trained with, with warnings to print.

    Raises:
        UsageError: If neither says.
        InvalidArgumentError: If a parameter is unknown or out of range.
    """
    trained = model.noise
    name = options.noise or (trained.name if trained is not None else None)
    if name is None:
        raise UsageError(
            f"{options.model} does not say which noise it was trained with: give --noise ({', '.join(sorted(LAWS))}) "
            "and --sigma"
        )
    given = _given(options)
    if not given and trained is not None and trained.name == name:
        given = dict(trained.parameters)
    law = make_law(name, shape, **given)
    warnings = []
    if trained is None:
        warnings.append(_UNTRAINED)
    else:
        expected = make_law(trained.name, shape, **trained.parameters)
        if expected.identity != law.identity:
            warnings.append(
                f"the model was trained with another noise ({law_text(expected)}) than it is certified with "
                f"({law_text(law)}): sound, but usually weaker"
            )
    return law, warnings


def pick_device(name: str | None) -> torch.device:
    """Return the device that `name` names; by default CUDA where there is one.

    Raises:
        UsageError: If the name is unknown or the device is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device must be cpu, cuda or cuda:N, got device={name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device must be cpu, cuda or cuda:N, got device={name!r}")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device


def _given(options: RunOptions) -> dict[str, float]:
    return {key: value for key, value in options.parameters if value is not None}
