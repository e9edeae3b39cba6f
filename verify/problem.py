"""One question to all methods: this network, these sets, these rows; and where to compute."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError
from verify.ball import Ball
from verify.graph import Graph
from verify.kernels import Program
from verify.region import Region
from verify.specification import Specification
from verify.tracing import trace


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch of properties of one network.

    Attributes:
        graph: The network.
        region: One set of inputs per property.
        specification: The rows to be proved positive.
        program: The network's numbers on the device and in the precision in which bounds are computed.
        max_bytes: About how much memory one chunk of rows may take.

    Raises:
        InvalidArgumentError: If shapes or batch sizes do not fit.
    """

    graph: Graph
    region: Region
    specification: Specification
    program: Program
    max_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        shape = tuple(self.region.center.shape[1:])
        if shape != self.graph.input_shape:
            raise InvalidArgumentError(f"inputs must have the shape {self.graph.input_shape}, got {shape}")
        coarse = self.program.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
        if coarse:
            raise InvalidArgumentError(
                "single precision must not be reduced further: call torch.set_float32_matmul_precision('highest'), got "
                f"{torch.get_float32_matmul_precision()!r}"
            )
        if len(self.region) != len(self.specification):
            sizes = len(self.region), len(self.specification)
            raise InvalidArgumentError(f"there must be one specification per input, got {sizes[1]} for {sizes[0]}")
        if self.specification.matrix.shape[2] != self.graph.num_outputs:
            raise InvalidArgumentError(
                f"a specification must have {self.graph.num_outputs} columns, one per output of the network, got "
                f"{self.specification.matrix.shape[2]}"
            )

    @classmethod
    def build(
        cls,
        network: nn.Module | Graph,
        region: Region,
        specification: Specification,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        max_bytes: int = 256 * 2**20,
    ) -> "Problem":
        """Translate the network if it is a module, and move everything to `device` in precision `dtype`."""
        graph = network if isinstance(network, Graph) else trace(network, tuple(region.center.shape[1:]))
        program = Program(graph, device, dtype)
        return cls(graph, region.to(program.device, dtype), specification, program, max_bytes)

    @classmethod
    def margins(
        cls,
        network: nn.Module | Graph,
        x: Float[Tensor, "batch *shape"],
        ball: Ball,
        labels: Sequence[int] | Int[ndarray, " batch"] | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        max_bytes: int = 256 * 2**20,
    ) -> "Problem":
        """Return the question "does the label win everywhere in the ball", for labels or the network's own predictions.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 2))
            >>> ball = Ball("linf", 0.1, clip=None)
            >>> Problem.margins(net, torch.zeros(3, 2), ball, [0, 1, 0]).specification.num_rows
            1
        """
        region = ball.at(x)
        graph = network if isinstance(network, Graph) else trace(network, tuple(x.shape[1:]))
        program = Program(graph, device, dtype)
        problem_region = region.to(program.device, dtype)
        if labels is None:
            with torch.no_grad():
                labels = program.forward(problem_region.center)[-1].argmax(-1).cpu().numpy()
        specification = Specification.margins(np.asarray(labels), graph.num_outputs)
        return cls(graph, problem_region, specification, program, max_bytes)

    def __len__(self) -> int:
        return len(self.region)

    def __getitem__(self, images: slice) -> "Problem":
        return Problem(self.graph, self.region[images], self.specification[images], self.program, self.max_bytes)
