"""Run as a script: certifies a tiny data set over and over, killing the process at random moments, until it is done.

A process that has imported everything forks one child per attempt, so that many kills fit into a few seconds. Prints one
JSON object: how many children were killed, and how many of them had finished at least one input.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from certify.runner import execute
from certify.setup import RunOptions, prepare


def options(folder: Path, out: Path) -> RunOptions:
    return RunOptions(
        model="slow_model:make",
        data=str(folder / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        n=300,
        n0=50,
        batch_size=64,
        device="cpu",
        out=out,
    )


def attempt(folder: Path, out: Path) -> None:
    execute(prepare(options(folder, out), {}).plan)


def main() -> None:
    folder, out, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    draw = random.Random(seed)
    prepare(options(folder, out), {})  # imports everything that the children need
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            attempt(folder, out)
            os._exit(0)
        if killed < kills:
            time.sleep(draw.uniform(0.0, 0.12))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed += 1
                continue
        else:
            _, status = os.waitpid(child, 0)
        if status != 0:
            sys.exit(f"the child failed with status {status}")
        break
    print(json.dumps({"killed": killed}))


if __name__ == "__main__":
    main()
