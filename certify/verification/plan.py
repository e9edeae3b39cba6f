"""One verification run, fully decided: which questions, by which rungs, and where the answers go."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from certify import __version__
from certify.rundir import SCHEMA
from certify.verification.methods import MethodOptions
from certify.verification.subject import Network, Properties, Subject
from verify.lipschitz.proofs import LipschitzProofs

KIND = "verify"


@dataclass(frozen=True, eq=False)
class VerifyPlan:
    """One run.

    Attributes:
        network: What is verified.
        subject: The questions.
        indices: Which of them, ascending.
        methods: The rungs.
        eps: Radius of the balls; the largest one looked at where radii are searched; None for boxes of a file.
        search: Search for the largest certified radius of each input and method.
        budget: Seconds per input, or for all boxes of a file together; None for no limit.
        batch: Inputs that batched rungs see at once.
        jobs: Processes for linear programs.
        device: Where bounds by propagation are computed.
        out: Run folder.
        settings: How the run was called; recorded, not part of the identity.
        lipschitz: Global Lipschitz constants of the network, found once where they are asked for.
    """

    network: Network
    subject: Subject
    indices: tuple[int, ...]
    methods: MethodOptions
    eps: float | None
    search: bool
    budget: float | None
    batch: int
    jobs: int
    device: torch.device
    out: Path
    settings: dict[str, Any]
    lipschitz: LipschitzProofs | None = None

    @property
    def radius(self) -> float:
        """The radius of the balls; 0.0 for boxes."""
        return 0.0 if self.eps is None else self.eps

    @property
    def is_file(self) -> bool:
        """Whether the questions come from a VNN-LIB file."""
        return isinstance(self.subject, Properties)

    def identity(self) -> dict[str, Any]:
        """Return what defines the run; a repeat with another identity in the same folder is refused."""
        return {
            "model_digest": self.network.digest,
            "graph_digest": self.network.graph.digest,
            **self.subject.identity(),
            "methods": self.methods.describe(),
            "eps": self.eps,
            "search": self.search,
            "budget": self.budget,
        }

    def config(self) -> dict[str, Any]:
        """Return the content of `run.json`."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "identity": self.identity(),
            "settings": self.settings,
            "environment": {
                "tool": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "platform": platform.platform(),
                "threads": torch.get_num_threads(),
                "device": str(self.device),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        }
