"""Several training processes: started here, or by torchrun, and joined to each other."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from certify.errors import UsageError

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What torchrun, and `launch`, tell each process of itself by its environment."""

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
"""Where the processes of torchrun meet."""

STORE = "CERTIFY_TRAINING_STORE"
"""Where the processes of `launch` meet: a file. A port that was free when it was chosen may be taken when it is bound."""


def launched() -> bool:
    """Whether this process was started as one of several."""
    met = STORE in os.environ or all(name in os.environ for name in _ADDRESS)
    return met and all(name in os.environ for name in _PLACE) and int(os.environ["WORLD_SIZE"]) > 1


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `certify` with these arguments in `count` processes on this machine, and wait for them.

    Where one fails, the others are stopped. An interruption is passed on; the leading process then says what was kept.

    Args:
        count: Number of processes, at least 2.
        arguments: Without the option that brought us here.

    Returns:
        Exit code of the leading process, or of the first that failed.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    with tempfile.TemporaryDirectory(prefix="certify-train-", ignore_cleanup_errors=True) as folder:
        processes = []
        for rank in range(count):
            environment = {
                "OMP_NUM_THREADS": str(threads),
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                STORE: str(Path(folder) / "store"),
            }
            processes.append(subprocess.Popen([sys.executable, "-m", "certify", *arguments], env=environment))
        try:
            return _wait(processes)
        except KeyboardInterrupt:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait()
            return 130


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code not in (None, 0)]
        if failed:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            # The leading process says what went wrong; the others only notice that it is gone.
            return codes[0] or failed[0] or 1
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


@contextmanager
def joined(device: str | None) -> Iterator[str | None]:
    """Join the other processes for a block, if there are any; yield the device of this process.

    Args:
        device: As it was asked for: "cuda" becomes one device a process.

    Raises:
        UsageError: If there are more processes than devices.
    """
    if not launched():
        yield device
        return
    import torch

    # Before there is a group, because what this loads keeps the group of its moment in default arguments. torch.optim would
    # load it later, and the threads of such a group outlive its end: one that is still at work when the interpreter ends
    # aborts the process, after all the training.
    import torch._dynamo
    import torch.distributed as dist

    cuda = (device is None and torch.cuda.is_available()) or device == "cuda"
    if device is not None and device.startswith("cuda:"):
        raise UsageError(f"several processes each take a device of their own: say --device cuda, got device={device!r}")
    local = int(os.environ["LOCAL_RANK"])
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(
            f"each process needs a device, got {local + 1} processes for {torch.cuda.device_count()} devices"
        )
    if cuda:
        torch.cuda.set_device(local)
    # A teacher may count votes for hours before the others hear of process 0 again.
    backend, timeout = "nccl" if cuda else "gloo", timedelta(hours=24)
    if STORE in os.environ:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = dist.FileStore(os.environ[STORE], count)  # type: ignore[attr-defined]  # documented, not exported by name
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)
    try:
        yield f"cuda:{local}" if cuda else device
    finally:
        dist.destroy_process_group()
