"""What `run.json` says of the forward pass and the data beside what certificates repeat: values that a run can have."""

from typing import Any

from certify.audit import fields
from certify.audit.findings import Findings
from certify.audit.spec import RunSpec

_WHERE = "run.json"
PRECISIONS = ("fp32", "bf16", "fp16")
"""Arithmetic that a forward pass can have."""

_PARAMETERS: dict[str, frozenset[str]] = {
    "fixed": frozenset({"alpha", "n0", "n", "runner_up", "rival_alpha"}),
    "planned": frozenset({"alpha", "mode", "pilot", "n_max", "precision"}),
    "sequential": frozenset(
        {"alpha", "beta", "cap", "mode", "method", "futility", "ratio", "thresholds", "boundaries", "refutations"}
    ),
    "anytime": frozenset({"alpha", "beta", "mode", "budget", "ratio", "thresholds"}),
}
"""Estimator -> its parameters: another one says of the run what nothing here follows from, and nobody checks."""


def check_settings(config: dict[str, Any], spec: RunSpec, found: Findings) -> None:
    """Check what no certificate depends on, and a replay and the report rely on; runs of earlier versions may lack some."""
    identity, settings = config["identity"], config["settings"]
    if spec.precision not in PRECISIONS:
        found.add(None, "precision", spec.precision, f"one of {', '.join(PRECISIONS)}", _WHERE)
    if "batch_size" in identity:
        size = fields.integer(identity["batch_size"])
        if size is None or size < 1:
            found.add(None, "batch_size", identity["batch_size"], "an integer of at least 1", _WHERE)
    for key in ("channels_last", "compile"):
        if key in identity and not isinstance(identity[key], bool):
            found.add(None, key, identity[key], "true or false", _WHERE)
    others = sorted(set(spec.estimator) - {"name", *_PARAMETERS.get(spec.estimator_name, spec.estimator)})
    if others:
        found.add(None, "estimator", ", ".join(others), f"no parameter of the estimator {spec.estimator_name}", _WHERE)
    if "grid" in settings and "grid" in spec.noise:
        # Integer noise is drawn in steps of the data.
        found.require_equal(None, "grid", settings["grid"], spec.noise["grid"], _WHERE)
