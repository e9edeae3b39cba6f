"""Pictures of certificates, drawn on figures of their own: no pyplot, no display, no global state."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from certify.errors import CertifyError, UsageError
from certify.metrics import CONFIDENCE, CertifiedSet, average_certified_radius, certified_counts, shares
from certify.report.tables import check_norms
from certify.report.wording import confidence_text, inputs_text, mean_text, norm_text, percent_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, told apart with any kind of colour vision; yellow is left out, too faint on white."""

_DASHES = ("-", (0, (6, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_GREY = "#444444"
RIGHT, WRONG, NONE = PALETTE[0], PALETTE[1], "#BBBBBB"
"""Colours of inputs that are right, wrong, abstained."""
UNDECIDED, REFUTED = "#DDDDDD", PALETTE[3]
"""Colours of inputs that are undecided and refuted."""


def plot_certified_accuracy(
    sets: CertifiedSet | Sequence[CertifiedSet],
    ax: "Axes | None" = None,
    *,
    envelope: bool = False,
    limits: "Sequence[Float64[ndarray, ' inputs'] | None]" = (),
    confidence: float = CONFIDENCE,
) -> "Axes":
    """Draw certified accuracy against radius, with bands for the intervals over the inputs.

    The curves are the data, not points on a grid: they fall exactly at the certified radii. The bands hold for each
    radius by itself.

    Args:
        sets: The certificates, one curve each.
        ax: Where to draw; default: the only axes of a new figure (`ax.figure.savefig(...)` writes it).
        envelope: Also draw the best of all curves at each radius, dashed and labelled as such.
        limits: For each set, radii that its inputs cannot exceed (`certify.report.limits`), drawn as a thin dashed curve
            as far as the axis goes; None for a set without.
        confidence: Of the bands.

    Raises:
        UsageError: If there is no set, their norms differ, or an envelope is asked for with fewer than two sets.
        CertifyError: If an envelope is asked for over different inputs.
    """
    sets = [sets] if isinstance(sets, CertifiedSet) else list(sets)
    if not sets:
        raise UsageError("a plot needs at least one source, got none")
    check_norms(sets)
    if ax is None:
        ax = new_figure(7.0, 4.4).add_subplot()
    right_end = max(float(certified.credited.max()) for certified in sets) * 1.04 or 1.0
    handles, labels = [], []
    for i, certified in enumerate(sets):
        x, counts = _steps(certified)
        color, dash = PALETTE[i % len(PALETTE)], _DASHES[(i // len(PALETTE)) % len(_DASHES)]
        intervals = shares(counts, len(certified), confidence=confidence)
        low, high = np.array([s.low for s in intervals]), np.array([s.high for s in intervals])
        ax.fill_between(x, 100 * low, 100 * high, step="post", color=color, alpha=0.16, linewidth=0)
        handles += ax.step(x, 100 * counts / len(certified), where="post", color=color, linestyle=dash, linewidth=1.8)
        labels.append(_legend_text(certified))
    for i, limit in enumerate(limits):
        if limit is not None:
            x = np.concatenate([[0.0], np.unique(limit[limit > 0])])
            left = np.count_nonzero(limit[None, :] > x[:, None], axis=1)
            color = PALETTE[i % len(PALETTE)]
            handles += ax.step(
                x, 100 * left / len(limit), where="post", color=color, linestyle=(0, (3, 3)), linewidth=0.9
            )
            labels.append(f"limit of every additive noise of its sigma: {_short(sets[i].name, 40)}")
    if envelope:
        x, y = _envelope(sets)
        handles += ax.step(x, 100 * y, where="post", color="black", linestyle=(0, (4, 3)), linewidth=1.1)
        labels.append(f"envelope: best of these {len(sets)} runs at each radius, no one classifier")
    _label_axes(ax, f"{norm_text(sets)} radius r (input units)".strip(), "certified accuracy (%)")
    ax.set_xlim(0.0, right_end)
    ax.set_ylim(0.0, 100.0)
    _add_legend(
        ax,
        handles,
        labels,
        f"bands: {confidence_text(confidence)} confidence over the inputs, at each radius by itself",
    )
    if any(not certified.complete for certified in sets):
        _watermark(ax)
    return ax


def radius_histogram(sets: Sequence[CertifiedSet]) -> "Figure":
    """Draw one histogram per source: the certified radii of right and of wrong predictions, one on the other."""
    columns = min(len(sets), 2)
    rows = -(-len(sets) // columns)
    figure = new_figure(7.0, 2.7 * rows + 0.3)
    right_end = max(float(certified.radius.max()) for certified in sets) or 1.0
    bins = np.linspace(0.0, right_end, 25)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for ax, certified in zip(grid, sets, strict=False):
        answered = ~certified.unproved
        groups = [certified.radius[certified.correct], certified.radius[answered & ~certified.correct]]
        ax.hist(groups, bins=bins, stacked=True, color=[RIGHT, WRONG], label=["right", "wrong"], rwidth=0.92)
        unproved = ", ".join(f"{count} {name}" for name, count in unproved_counts(certified).items())
        _plain(
            ax.set_title("", fontsize=10, loc="left"),
            f"{_short(certified.name, 34)}\nof {len(certified)}: {unproved} (radius 0)"
            if len(unproved_counts(certified)) > 1
            else f"{_short(certified.name, 34)}\n{certified.abstained.sum()} of {len(certified)} abstained (radius 0)",
        )
        ax.tick_params(labelbottom=True)
        ax.yaxis.get_major_locator().set_params(integer=True)
        _label_axes(ax, f"{norm_text(sets)} radius (input units)".strip(), "inputs")
        ax.legend(frameon=False, fontsize=9)
        if not certified.complete:
            _watermark(ax)
    for ax in grid[len(sets) :]:
        ax.set_axis_off()
    return figure


def unproved_counts(certified: CertifiedSet) -> dict[str, int]:
    """Return how many inputs have no class, by reason; reasons that do not occur are left out, but for "abstained"."""
    reasons = {"undecided": certified.undecided, "refuted": certified.refuted}
    counts = {name: int(np.count_nonzero(where)) for name, where in reasons.items()}
    return {"abstained": int(np.count_nonzero(certified.abstained)), **{k: v for k, v in counts.items() if v}}


def outcome_bars(sets: Sequence[CertifiedSet]) -> "Figure":
    """Draw how many inputs are right, wrong and without a class (abstained, undecided, refuted), one bar per source."""
    figure = new_figure(7.0, 0.5 * len(sets) + 1.2)
    ax = figure.add_subplot()
    rows = np.arange(len(sets))
    parts = {
        "right": (RIGHT, "white", [np.count_nonzero(s.correct) for s in sets]),
        "wrong": (WRONG, "white", [np.count_nonzero(~s.correct & ~s.unproved) for s in sets]),
        "abstained": (NONE, "black", [np.count_nonzero(s.abstained) for s in sets]),
    }
    if any(np.any(s.undecided | s.refuted) for s in sets):
        parts["undecided"] = (UNDECIDED, "black", [np.count_nonzero(s.undecided) for s in sets])
        parts["refuted"] = (REFUTED, "white", [np.count_nonzero(s.refuted) for s in sets])
    totals = np.array([len(certified) for certified in sets])
    start = np.zeros(len(sets))
    for label, (color, ink, counts) in parts.items():
        width = 100 * np.array(counts) / totals
        ax.barh(rows, width, left=start, color=color, label=label, height=0.62)
        for row, (begin, size) in enumerate(zip(start, width, strict=True)):
            if size >= 7:  # a narrower part has no room for its number, which the table gives
                shown = percent_of(int(counts[row]), int(totals[row]))
                ax.text(begin + size / 2, row, shown, ha="center", va="center", color=ink, fontsize=9)
        start = start + width
    # "$" would start a formula.
    names = [_short(s.name, 26).replace("$", r"\$") + ("" if s.complete else " (PARTIAL)") for s in sets]
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.set_xlim(0.0, 100.0)
    _label_axes(ax, "inputs (%)", "")
    ax.grid(visible=False)
    figure.legend(loc="outside upper center", ncols=len(parts), frameon=False, fontsize=9)
    return figure


def curve_figure(
    sets: Sequence[CertifiedSet],
    *,
    envelope: bool = False,
    limits: "Sequence[Float64[ndarray, ' inputs'] | None]" = (),
    confidence: float = CONFIDENCE,
) -> "Figure":
    """Return the figure of `plot_certified_accuracy`, high enough for its legend."""
    figure = new_figure(7.0, 4.2 + 0.2 * (len(sets) + sum(limit is not None for limit in limits)))
    plot_certified_accuracy(sets, figure.add_subplot(), envelope=envelope, limits=limits, confidence=confidence)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` inches that no window or pyplot state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def render(figure: "Figure", form: str, *, dpi: int = 160) -> bytes:
    """Return the figure as "png", "pdf" or "svg"; the same figure gives the same bytes, without dates.

    Raises:
        UsageError: If the form is another one.
    """
    from matplotlib import rc_context

    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
    }
    if form not in metadata:
        raise UsageError(f"a picture is png, pdf or svg, got {form!r}")
    target = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "certify", "pdf.fonttype": 42}):
        # A source may be named in a script that the font lacks; the boxes in its place say that well enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target, format=form, dpi=dpi, metadata=metadata[form])
    return target.getvalue()


def _steps(certified: CertifiedSet) -> tuple[Float64[ndarray, " steps"], Int64[ndarray, " steps"]]:
    """Return where the curve falls, and how many inputs are left from there on (`where="post"`).

    An input counts up to its own radius and no further; the curve ends where nothing is certified any more.
    """
    x = np.concatenate([[0.0], np.unique(certified.radius[certified.correct])])
    return x, certified_counts(certified, _just_beyond(x))


def _envelope(sets: Sequence[CertifiedSet]) -> tuple[Float64[ndarray, " steps"], Float64[ndarray, " steps"]]:
    if len(sets) < 2:
        raise UsageError("an envelope is over several runs, got one: leave out --envelope or name the others too")
    for other in sets[1:]:
        if not np.array_equal(sets[0].idx, other.idx):
            raise CertifyError(
                f"an envelope needs the same inputs in every run, but {sets[0].name} and {other.name} hold different "
                f"ones ({len(sets[0])} and {len(other)} inputs)"
            )
        if not np.array_equal(sets[0].label, other.label):
            raise CertifyError(
                f"an envelope needs one data set, but {sets[0].name} and {other.name} differ in their labels"
            )
    x = np.unique(np.concatenate([_steps(certified)[0] for certified in sets]))
    best = np.max([certified_counts(certified, _just_beyond(x)) / len(certified) for certified in sets], axis=0)
    return x, best


def _just_beyond(x: Float64[ndarray, " steps"]) -> Float64[ndarray, " steps"]:
    """The first point stands for radius 0 itself; every other for the radii right after a fall."""
    return np.concatenate([x[:1], np.nextafter(x[1:], np.inf)])


def _legend_text(certified: CertifiedSet) -> str:
    part = "" if certified.complete else "PARTIAL, "
    acr = mean_text(average_certified_radius(certified))
    inputs = inputs_text(certified)
    if certified.complete and certified.data_size is not None:
        inputs = "all " + inputs if len(certified) == certified.data_size else f"{inputs} of the {certified.data_size}"
    return f"{_short(certified.name, 40)} ({part}{inputs} inputs, ACR {acr})"


def _add_legend(ax: "Axes", handles: Sequence[Any], labels: Sequence[str], title: str) -> None:
    # Names are set as plain text afterwards: as labels, "$" would start a formula and a leading "_" hide the curve.
    legend = ax.legend(
        handles, [f"curve {i}" for i in range(len(labels))], loc="upper center", bbox_to_anchor=(0.5, -0.16),
        frameon=False, fontsize=9, title=title, title_fontsize=9, alignment="left",
    )  # fmt: skip
    for text, label in zip(legend.get_texts(), labels, strict=True):
        _plain(text, label)


def _label_axes(ax: "Axes", x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=10.5)
    ax.set_ylabel(y, fontsize=10.5)
    ax.tick_params(labelsize=9.5)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _watermark(ax: "Axes") -> None:
    ax.text(
        0.5, 0.5, "PARTIAL", transform=ax.transAxes, rotation=20, ha="center", va="center", fontsize=44, color=_GREY,
        alpha=0.18, fontweight="bold", zorder=5, clip_on=True,
    )  # fmt: skip


def _plain(text: Any, content: str) -> None:
    text.set_parse_math(False)
    text.set_text(content)


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
