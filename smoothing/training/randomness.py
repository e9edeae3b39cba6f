"""All randomness of a training comes from its seed, and none of it leaks into or out of the program around it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2^63) for one purpose: unrelated to those of other purposes and other seeds.

    Args:
        seed: The training's seed.
        *purpose: What it is for, for instance ("noise", epoch).
    """
    text = "|".join(map(str, ("training", seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_generator(device: torch.device, seed: int, *purpose: str | int) -> torch.Generator:
    """Return a new generator on `device` for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


class GlobalRandomness:
    """torch's global random state, which dropout draws from, as this training's own: swapped in only while it runs.

    Args:
        device: The training device; its global state is swapped too.
        seed: The training's seed.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._seed = device, seed
        self._devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=self._devices):
            torch.default_generator.manual_seed(derive_seed(seed, "global"))
            for cuda in self._devices:
                with torch.cuda.device(cuda):
                    torch.cuda.manual_seed(derive_seed(seed, "global"))
            self._state = self._read()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run a block on this training's own global state, going on where the last block stopped."""
        with torch.random.fork_rng(devices=self._devices):
            cpu, cuda_states = self._state
            torch.set_rng_state(cpu)
            for cuda, state in zip(self._devices, cuda_states, strict=True):
                torch.cuda.set_rng_state(state, cuda)
            yield
            self._state = self._read()

    def restart(self, *purpose: str | int) -> None:
        """Begin anew with a stream for one purpose."""
        self._state = GlobalRandomness(self._device, derive_seed(self._seed, *purpose))._state

    def state_dict(self) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        """Return the state as it is now."""
        return {"cpu": self._state[0].clone(), "cuda": [state.clone() for state in self._state[1]]}

    def load_state_dict(self, state: dict[str, torch.Tensor | list[torch.Tensor]]) -> None:
        """Go on from a `state_dict`; one from another kind of device has no state for this one, which keeps its own."""
        cpu, cuda = state["cpu"], state["cuda"]
        assert isinstance(cpu, torch.Tensor)
        assert isinstance(cuda, list)
        self._state = (
            cpu.cpu(),
            [saved.cpu() for saved in cuda] if len(cuda) == len(self._devices) else self._state[1],
        )

    def _read(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return torch.get_rng_state(), [torch.cuda.get_rng_state(cuda) for cuda in self._devices]
