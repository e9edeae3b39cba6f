r"""Reproduce the tables of "A Convex Relaxation Barrier to Tight Robustness Verification" (Salman et al. 2019).

    NETS=../shared/models/lp_barrier
    python scripts/reproduce_lp_barrier.py table1 --weights $NETS/mnist_MLP_2_100_NOR.safetensors --eps 0.02 --out runs
    python scripts/reproduce_lp_barrier.py table2 --weights $NETS/mnist_*.safetensors --out runs \
        --images $NETS/ten_test_images.npy

Table 1: upper bounds on the adversarial error, ball intersected with [0, 1], true label. Table 2: certified l_inf radius,
not clipped, the network's own prediction. Any weight file of the family will do; rows that were published are shown beside
the published numbers. Every finished image is a line in a file of --out: interrupt, and repeat the same line to go on. The
files are named after the weights and images themselves too, so that others under the same name are never answered from them.

Exit status: 0 when the tables are printed, 2 if something given cannot be used, 1 for any other failure.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from barrier_networks import SHAPE, graph_of, load_network, mnist_test
from command_line import between, whole
from torch import Tensor, nn

from smoothing.attacks import cross_entropy, input_gradient, margin, pgd
from smoothing.threat import Norm, ThreatModel
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack, original_of
from verify.ball import Ball
from verify.certified_radius import attack_radius, certified_radius
from verify.crown import Crown
from verify.graph import Graph
from verify.lp import LPAll, LPLast
from verify.lp.refutation import refute_lp_all, refute_lp_last
from verify.problem import Problem
from verify.result import Result, Status
from verify.same_slope import SameSlope
from verify.selection import select_problem, select_result

TABLE1 = {  # test error, PGD, MILP lower, MILP upper, LP-ALL, LP-GREEDY, all in percent
    ("mnist_MLP_2_100_NOR", 0.02): (2.05, 10.06, 10.16, 13.48, 26.41, 35.11),
    ("mnist_MLP_2_100_NOR", 0.03): (2.05, 20.37, 20.43, 48.67, 65.70, 75.85),
    ("mnist_MLP_2_100_NOR", 0.05): (2.05, 53.37, 53.37, 94.04, 97.95, 99.39),
    ("mnist_MLP_2_100_LPD", 0.1): (4.09, 13.39, 14.45, 14.45, 17.24, 18.32),
}
TABLE2 = {  # LP-GREEDY, LP-LAST, LP-ALL, PGD, all in 1e-3
    "mnist_cnn_small_NOR": (14.98, 16.29, 18.87, 52.70),
    "mnist_cnn_small_ADV": (73.42, 77.09, 85.94, 155.16),
    "mnist_cnn_small_LPD": (153.17, 160.83, 160.83, 226.72),
    "mnist_MLP_9_100_NOR": (11.35, 11.92, 14.23, 31.37),
    "mnist_MLP_9_100_ADV": (19.41, 21.12, 25.41, 94.57),
    "mnist_MLP_9_100_LPD": (68.25, 71.51, 73.96, 103.87),
    "mnist_MLP_2_100_NOR": (14.19, 15.11, 15.83, 28.14),
    "mnist_MLP_2_100_ADV": (41.68, 43.76, 43.76, 81.22),
    "mnist_MLP_2_100_LPD": (81.50, 85.33, 85.33, 118.10),
}
CLIP = (0.0, 1.0)
FILTER_BATCH = 250
FILTERS = ("pgd", "falsified", "greedy", "crown")
REFUTED_AT_ONCE = 64
RELATIVE = 0.01  # aim for the gap between the largest radius proved and the smallest not; up to twice that is accepted
FILTER_BYTES = 32 * 2**20  # of rows at a time: small enough for the caches


class Journal:
    """One JSON object per line and finished item; what is there is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off by an interruption: done again
                self.done[entry["key"]] = entry

    def write(self, key: str, **values: Any) -> None:
        self.done[key] = {"key": key, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(self.done[key]) + "\n")


class UnusableError(Exception):
    """Something given on the command line cannot be used; says what and why in a line."""


def require_network(path: Path) -> nn.Module:
    """Load a weight file of the family, or say why it is none."""
    if not path.is_file():
        raise UnusableError(f"{path}: there is no such file")
    try:
        network = load_network(path)
    except KeyError as error:
        raise UnusableError(f"{path}: not the weights of a network of the family: {error} is missing") from None
    except Exception as error:  # safetensors, torch and pickle each have errors of their own
        raise UnusableError(f"{path}: not the weights of a network of the family: {_line(error)}") from None
    try:
        with torch.no_grad():
            outputs = network(torch.zeros(1, *SHAPE))
    except RuntimeError as error:
        raise UnusableError(f"{path}: the network does not take images of shape {SHAPE}: {_line(error)}") from None
    if outputs.shape != (1, 10):
        raise UnusableError(f"{path}: the network must give 10 scores, got outputs of shape {tuple(outputs.shape)}")
    return network


def require_images(path: Path) -> Tensor:
    """Load the images of table 2."""
    try:
        images = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UnusableError(f"{path}: cannot be read as images: {_line(error)}") from None
    if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.shape[1:] != SHAPE or not len(images):
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UnusableError(f"{path}: must be float32 images of shape [N, 1, 28, 28], got {got}")
    return torch.from_numpy(images)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def tag_of(network: nn.Module, *data: Tensor) -> str:
    """Return what tells networks and images of one name apart: a digest of all their numbers."""
    digest = hashlib.sha256()
    for name, value in [*network.state_dict().items(), *((f"data {k}", tensor) for k, tensor in enumerate(data))]:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def lp_verdict(path: Path, x: torch.Tensor, label: int, eps: float) -> tuple[bool, float, tuple[str, ...]]:
    """Whether LP-ALL proves the label, in how many CPU seconds, and what went wrong if anything did."""
    torch.set_num_threads(1)
    began = time.process_time()
    problem = Problem.margins(graph_of(path), x[None], Ball("linf", eps, clip=CLIP), [label])
    result = LPAll(until_sign=True).bound(problem)
    return result.status[0] is Status.VERIFIED, time.process_time() - began, result.notes


def table1_row(path: Path, eps: float, root: Path, out: Path, jobs: int, milp: int, milp_seconds: float) -> None:
    name = path.stem
    network, graph = load_network(path), graph_of(path)
    images, labels = mnist_test(root)
    targets = torch.from_numpy(labels)
    prefix = f"table1-{name}-{tag_of(network, images, targets)}-{eps}"
    threat = ThreatModel(Norm.LINF, eps)
    with torch.no_grad():
        wrong = network(images).argmax(1) != targets
    filters = Journal(out / f"{prefix}-filters.jsonl")
    run_filters(network, graph, images, labels, wrong.numpy(), threat, filters)
    batches = [filters.done[str(start)] for start in range(0, len(images), FILTER_BATCH)]
    published_attack, falsified, greedy, crown = (
        np.array([bit == "1" for batch in batches for bit in batch[column]]) for column in FILTERS
    )
    open_images = np.flatnonzero(~falsified & ~crown)
    print(
        f"{name} eps {eps}: PGD {100 * published_attack.mean():.2f} %, LP-GREEDY {100 * (1 - greedy.mean()):.2f} %, "
        f"CROWN {100 * (1 - crown.mean()):.2f} %, open for LP-ALL: {len(open_images)}",
        flush=True,
    )
    journal = Journal(out / f"{prefix}.jsonl")
    todo = [int(i) for i in open_images if str(i) not in journal.done]
    run_refutations(graph, images, labels, eps, todo, journal)
    todo = [i for i in todo if str(i) not in journal.done]
    for i, (proved, seconds, notes) in run(lambda i: (path, images[i], int(labels[i]), eps), lp_verdict, todo, jobs):
        journal.write(str(i), proved=proved, seconds=seconds, notes=list(notes))
    proved = crown.copy()
    for i in open_images:
        proved[i] = journal.done[str(i)]["proved"]
    answers = [journal.done[str(i)] for i in open_images]
    seconds = sum(answer["seconds"] for answer in answers)
    quickly = sum("points" in answer for answer in answers)
    measured = [100 * wrong.float().mean().item(), 100 * published_attack.mean(), None, None]
    measured += [100 * (1 - proved.mean()), 100 * (1 - greedy.mean())]
    columns = ("test error", "PGD", "MILP lower", "MILP upper", "LP-ALL", "LP-GREEDY")
    published = TABLE1.get((name, eps))
    print(
        f"\n{name}, eps {eps}, ball within [0, 1], true label, {len(images)} images, LP-ALL {seconds / 60:.1f} CPU minutes: "
        f"{quickly} images by points of its polytope, {len(answers) - quickly} by programs"
    )
    print("| column | measured % | published % | difference |\n| --- | --- | --- | --- |")
    for k, (column, value) in enumerate(zip(columns, measured, strict=True)):
        known = "" if published is None else f"{published[k]:.2f}"
        difference = "" if published is None or value is None else f"{value - published[k]:+.2f}"
        print(f"| {column} | {'' if value is None else f'{value:.2f}'} | {known} | {difference} |")
    if milp:
        journal = Journal(out / f"{prefix}-milp-{milp_seconds}s.jsonl")
        milp_subset(path, images, labels, eps, np.flatnonzero(~falsified & ~proved), milp, milp_seconds, journal)


def run_filters(
    network: nn.Module,
    graph: Graph,
    images: torch.Tensor,
    labels: np.ndarray,
    wrong: np.ndarray,
    threat: ThreatModel,
    journal: Journal,
) -> None:
    """Cheap answers, batch by batch: the published attack, a stronger one, LP-GREEDY alone, CROWN with same-slope boxes."""
    for start in range(0, len(images), FILTER_BATCH):
        if str(start) in journal.done:
            continue
        some = slice(start, start + FILTER_BATCH)
        answers = filter_batch(network, graph, images[some], labels[some], wrong[some], threat)
        journal.write(
            str(start),
            **{name: "".join("01"[int(x)] for x in answer) for name, answer in zip(FILTERS, answers, strict=True)},
        )
        print(
            f"\rfilters: {min(start + FILTER_BATCH, len(images))} of {len(images)}", end="", file=sys.stderr, flush=True
        )
    print(file=sys.stderr)


def filter_batch(
    network: nn.Module, graph: Graph, x: torch.Tensor, labels: np.ndarray, wrong: np.ndarray, threat: ThreatModel
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    ball, y = Ball("linf", threat.radius, clip=CLIP), torch.from_numpy(labels)
    greedy, crown = np.zeros(len(x), dtype=bool), np.zeros(len(x), dtype=bool)
    published = published_attack(network, x, y, threat.radius).numpy()
    falsified = published | wrong
    # A sound bound cannot prove what an attack has refuted, so only the others are asked about.
    rest = np.flatnonzero(~falsified)
    if len(rest):
        problem = Problem.margins(graph, x[rest], ball, labels[rest], max_bytes=FILTER_BYTES)
        greedy[rest] = [status is Status.VERIFIED for status in SameSlope().bound(problem, pure=True).status]
        crown |= greedy
    rest = np.flatnonzero(~falsified & ~greedy)
    if len(rest):
        generator, left = torch.Generator().manual_seed(0), y[rest]
        harder = pgd(lambda z: margin(network(z), left), x[rest], threat, steps=60, restarts=4, generator=generator)
        falsified[rest[(harder.loss > 0).numpy()]] = True
    rest = np.flatnonzero(~falsified & ~greedy)
    if len(rest):
        problem = Problem.margins(graph, x[rest], ball, labels[rest], max_bytes=FILTER_BYTES)
        better = Crown().bound(problem, SameSlope().bound(problem))
        crown[rest] = [status is Status.VERIFIED for status in better.status]
    return published, falsified, greedy, crown


def run_refutations(
    graph: Graph, images: torch.Tensor, labels: np.ndarray, eps: float, todo: list[int], journal: Journal
) -> None:
    """Write down the images that LP-ALL will not prove, as far as points of its polytope show it; solve no program."""
    began, open_after = time.perf_counter(), 0
    for start in range(0, len(todo), REFUTED_AT_ONCE):
        batch, used = np.array(todo[start : start + REFUTED_AT_ONCE]), time.process_time()
        ball = Ball("linf", eps, clip=CLIP)
        problem = Problem.margins(graph, images[batch], ball, labels[batch], max_bytes=FILTER_BYTES)
        base = Crown().bound(problem, SameSlope().bound(problem))
        refuted = refute_lp_all(problem, base).refuted
        rest = np.flatnonzero(~refuted)
        if len(rest):
            some = select_problem(problem, rest), select_result(base, rest)
            refuted[rest] = refute_lp_all(*some, box_steps=3, steps=15).refuted
        seconds = (time.process_time() - used) / len(batch)
        for i in batch[refuted]:
            journal.write(str(i), proved=False, seconds=seconds, notes=[], points=True)
        open_after += int((~refuted).sum())
        left = (time.perf_counter() - began) / (start + len(batch)) * (len(todo) - start - len(batch))
        print(
            f"\rpoints: {start + len(batch)} of {len(todo)}, {open_after} left to programs, about {left / 60:.1f} minutes ",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)


def published_attack(network: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Return where the attack of the paper's code errs: 40 steps of 0.01 up the cross entropy from the image, *last* point.

    `smoothing.attacks.pgd` returns the best point of all steps, which falsifies up to 0.2 % more images than the last.
    """
    moved = x
    for _ in range(40):
        gradient, _ = input_gradient(lambda z: cross_entropy(network(z), y), moved)
        moved = torch.clamp(x + (moved + 0.01 * gradient.sign() - x).clamp(-eps, eps), *CLIP)
    with torch.no_grad():
        return network(moved).argmax(1) != y


def milp_subset(
    path: Path,
    images: torch.Tensor,
    labels: np.ndarray,
    eps: float,
    open_images: np.ndarray,
    count: int,
    limit: float,
    journal: Journal,
) -> None:
    """Exact answers on the first `count` images that LP-ALL leaves open."""
    from verify.milp import MILP

    subset = [int(i) for i in open_images[:count]]
    for i in subset:
        if str(i) in journal.done:
            continue
        began = time.process_time()
        problem = Problem.margins(graph_of(path), images[i][None], Ball("linf", eps, clip=CLIP), [int(labels[i])])
        result = MILP(time_limit=limit, until_sign=True).bound(problem, LPAll().bound(problem))
        journal.write(str(i), status=str(result.status[0]), seconds=time.process_time() - began)
    verdicts = [journal.done[str(i)]["status"] for i in subset]
    counts = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    print(f"MILP on the first {len(subset)} images that LP-ALL leaves open, {limit:.0f} s each: {counts}")


def table2_row(path: Path, images: torch.Tensor, out: Path, jobs: int) -> None:
    """Certified radii by the three published methods, alone as published, and by the attack; image by image."""
    prefix = f"table2-{path.stem}-{tag_of(load_network(path), images)}"
    journal = Journal(out / f"{prefix}.jsonl")
    todo = [i for i in range(len(images)) if str(i) not in journal.done]
    attacked = attacked_radii(path, images, Journal(out / f"{prefix}-pgd.jsonl"))
    for i, radii in run(lambda i: (path, images[i], attacked[i]), table2_image, todo, jobs):
        journal.write(str(i), **radii)
    columns = ("LP-GREEDY", "LP-LAST", "LP-ALL", "PGD")
    found = [{**journal.done[str(i)], "PGD": attacked[i]} for i in range(len(images))]
    values = np.array([[entry[column] for column in columns] for entry in found])
    seconds = sum(entry["seconds"] for entry in found)
    published = TABLE2.get(path.stem)
    counts = ", ".join(f"{sum(entry['runs'][way] for entry in found)} {way}" for way in found[0]["runs"])
    last, everything = (1000 * np.mean([entry[f"{rung} not at"] for entry in found]) for rung in ("LP-LAST", "LP-ALL"))
    print(
        f"\n{path.stem}: mean l_inf radius x 1000, not clipped, predicted label, {len(images)} images, {seconds:.0f} CPU s "
        f"without the attack; runs: {counts}; smallest radii not proved by LP-LAST {last:.2f}, by LP-ALL {everything:.2f}"
    )
    print("| column | measured | published | difference % |\n| --- | --- | --- | --- |")
    for k, (column, mean) in enumerate(zip(columns, 1000 * values.mean(axis=0), strict=True)):
        known = "" if published is None else f"{published[k]:.2f}"
        difference = "" if published is None else f"{100 * (mean / published[k] - 1):+.2f}"
        print(f"| {column} | {mean:.2f} | {known} | {difference} |", flush=True)


def attacked_radii(path: Path, images: torch.Tensor, journal: Journal) -> list[float]:
    """Return the distance of the nearest adversarial point found per image, each other class being attacked for itself."""
    todo = [i for i in range(len(images)) if str(i) not in journal.done]
    if todo:
        # The attack sees all images at once, everything else one after the other.
        attack = Attack(restarts=0, per_row=True, original=original_of(load_network(path)))
        found = attack_radius(graph_of(path), images[todo], "linf", clip=None, limit=0.5, attack=attack)
        for i, radius in zip(todo, found, strict=True):
            journal.write(str(i), PGD=float(radius))
    return [float(journal.done[str(i)]["PGD"]) for i in range(len(images))]


def table2_image(path: Path, x: torch.Tensor, attacked: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    began = time.process_time()
    question = Question(graph_of(path), x)
    greedy = certified_radius(
        question.graph, x[None], "linf", SameSlope(), pure=True, clip=None, limit=min(attacked, 0.5), relative=0.002
    )
    last = bracket(question.last, float(greedy.radius[0]), attacked)
    everything = bracket(question.all, last[0], attacked)
    return {
        "LP-GREEDY": float(greedy.radius[0]),
        "LP-LAST": last[0],
        "LP-LAST not at": last[1],
        "LP-ALL": everything[0],
        "LP-ALL not at": everything[1],
        "runs": question.runs,
        "seconds": time.process_time() - began,
    }


class Question:
    """Does LP-LAST, or LP-ALL, prove the prediction at a radius: three ways to find out, cheap ones first."""

    def __init__(self, graph: Graph, x: torch.Tensor) -> None:
        self.graph, self.x = graph, x[None]
        self.runs = dict.fromkeys(("points", "alpha", "lp-last", "lp-all"), 0)
        self.base: tuple[float, Result] | None = None

    def problem(self, radius: float) -> Problem:
        return Problem.margins(self.graph, self.x, Ball("linf", radius, clip=None))

    def last(self, radius: float, way: str) -> float:
        """The smallest value at a point of LP-LAST's polytope, or else the bound of LP-LAST itself."""
        problem = self.problem(radius)
        if way == "points":
            self.runs["points"] += 1
            return float(refute_lp_last(problem, SameSlope().bound(problem, pure=True), steps=40).values.min())
        self.runs["lp-last"] += 1
        return float(LPLast(until_sign=True).bound(problem, pure=True).lower.min())

    def all(self, radius: float, way: str) -> float:
        """The smallest value at a point of LP-ALL's polytope, or alpha-CROWN's bound, or LP-ALL's."""
        problem = self.problem(radius)
        self.runs["lp-all" if way == "exact" else way] += 1
        # Bounds for a larger ball are bounds: good enough to know most of the stable neurons.
        if self.base is None or not radius <= self.base[0] <= 1.1 * radius:
            self.base = radius, Crown().bound(problem, SameSlope().bound(problem))
        base = self.base[1]
        if way == "points":
            return float(refute_lp_all(problem, base, box_steps=4, steps=30).values.min())
        alpha = AlphaCrown(steps=30, box_steps=20).bound(problem, base)
        return float((LPAll(until_sign=True).bound(problem, alpha) if way == "exact" else alpha).lower.min())


def bracket(ask: Callable[[float, str], float], low: float, high: float) -> tuple[float, float]:
    """Return the largest radius found at which a method proves the label, and the smallest at which it does not.

    What alpha-CROWN proves, LP-ALL proves: its lines and boxes are the best of their kind. What a point of a rung's polytope
    refutes, the rung does not prove. The rung itself is asked only about what lies between.

    Args:
        ask: Given a radius and a way: "points", a value that is negative only if the method does not prove the label;
            "alpha", one that is positive only if it does; "exact", one that is positive if and only if it does.
        low: A radius at which it proves the label.
        high: A radius at which it cannot, because an attack succeeds.
    """
    # From above: false position (Illinois) on the values of points, which are about linear in the radius near zero.
    below, above = low, high
    value_below, value_above = float("nan"), float("nan")
    guess, side = 1.1 * low, 0
    for _ in range(20):
        if above - below <= RELATIVE / 4 * low:
            break
        known = value_below - value_above > 0
        if known:
            guess = below + (above - below) * min(max(value_below / (value_below - value_above), 0.05), 0.95)
        elif not below < guess < above:
            guess = (below + above) / 2
        value = ask(guess, "points")
        if value < -1e-6:
            above, value_above = guess, value
            value_below *= 0.5 if side < 0 else 1.0
            side, guess = -1, below + (above - below) / 2
        else:
            below, value_below = guess, value
            value_above *= 0.5 if side > 0 else 1.0
            side, guess = 1, 1.1 * guess
    high = above
    # From below: at once as high as it may go, and lower by larger and larger steps where that fails.
    step, proved = RELATIVE, low
    while high * (1 - step) > low and proved == low:
        if ask(high * (1 - step), "alpha") > 0:
            proved = high * (1 - step)
        step *= 2
    low = proved
    while high - low > 2.001 * RELATIVE * high:
        guess = (low + high) / 2
        low, high = (guess, high) if ask(guess, "exact") > 0 else (low, guess)
    return low, high


def run(
    arguments: Callable[[int], tuple[Any, ...]], work: Callable[..., Any], todo: list[int], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Yield (item, work(*arguments(item))) as they finish, over processes if asked to."""
    began = time.perf_counter()
    if jobs == 1:
        results: Iterator[Any] = ((i, work(*arguments(i))) for i in todo)
    else:
        from joblib import Parallel, delayed

        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        results = parallel(delayed(_tagged)(i, work, arguments(i)) for i in todo)
    for done, result in enumerate(results, 1):
        yield result
        left = (time.perf_counter() - began) / done * (len(todo) - done)
        print(f"\r{done} of {len(todo)}, about {left / 60:.1f} minutes left ", end="", file=sys.stderr, flush=True)
    if todo:
        print(file=sys.stderr)


def _tagged(i: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[int, Any]:
    return i, work(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("table1", "table2"))
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--eps", type=between(0.0, 1e150), nargs="+", help="table 1: radii")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"), help="table 1: folder with MNIST/raw")
    parser.add_argument("--images", type=Path, help="table 2: .npy of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journals")
    parser.add_argument("--jobs", type=whole(1), default=1, help="processes over images")
    parser.add_argument(
        "--milp", type=whole(0), default=0, metavar="N", help="table 1: also MILP on N images that stay open"
    )
    parser.add_argument("--milp-seconds", type=between(0.0, 1e9), default=60.0, help="time limit per image of --milp")
    arguments = parser.parse_args()
    if arguments.table == "table1" and not arguments.eps:
        parser.error("table1 needs --eps")
    if arguments.table == "table2" and arguments.images is None:
        parser.error("table2 needs --images")
    try:
        tables(arguments)
    except UnusableError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def tables(arguments: argparse.Namespace) -> None:
    """Print what is asked for; everything given is looked at before anything is computed."""
    torch.set_num_threads(1)
    for path in arguments.weights:
        require_network(path)
    if arguments.table == "table1":
        try:
            mnist_test(arguments.data_root)
        except (OSError, EOFError, ValueError) as error:
            raise UnusableError(f"{arguments.data_root}: no folder with MNIST/raw: {_line(error)}") from None
        for path in arguments.weights:
            for eps in arguments.eps:
                table1_row(
                    path,
                    eps,
                    arguments.data_root,
                    arguments.out,
                    arguments.jobs,
                    arguments.milp,
                    arguments.milp_seconds,
                )
    else:
        images = require_images(arguments.images)
        for path in arguments.weights:
            table2_row(path, images, arguments.out, arguments.jobs)


if __name__ == "__main__":
    main()
