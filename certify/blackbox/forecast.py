"""What a run on a service will ask, cost and be able to prove, before the first question."""

from typing import Any

from certify.blackbox.images import quantize
from certify.blackbox.preflight import wanted
from certify.blackbox.spec import Service
from certify.blackbox.spending import AUTOMATIC_CANARIES, asks_first, extras_of, inputs_within
from certify.progress import clock
from certify.run_plan import RunPlan, radius_of
from smoothing.estimators.base import Phase
from smoothing.estimators.fixed import FixedEstimator
from smoothing.statistics.binomial import failure_upper_bound


def service_forecast(plan: RunPlan) -> dict[str, Any]:
    """Return queries, money, hours, upload and radii of a new run as JSON-ready data.

    Queries, cost, hours and upload are those of the votes and of everything else that is asked about: the question before
    the first vote, clean images, and the known images that the service is watched by. Whether the latter are watched
    without being asked for may depend on the service's first answer; `watching_queries_if_unversioned` is what they would
    then add at most. Calls that end without an answer and are made again come on top; a budget holds for them too.
    `largest_radius` is that of this run when all votes of an input agree; `largest_radius_for_money` what the whole budget
    would buy if it were spent on a single input.

    Args:
        plan: With a service.
    """
    service: Service = plan.service
    options, inputs = service.options, len(plan.indices)
    most = plan.votes_per_input
    votes = None if most is None else inputs * most
    limit = options.budget.queries
    few = min(AUTOMATIC_CANARIES, len(plan.data))
    clean, question = wanted(plan), int(asks_first(plan))
    before = question + clean.images
    canaries = service.canaries
    may_change = canaries is None and not (service.shows_no_version or service.shows_version) and question > 0
    if canaries is None:
        automatic = service.shows_no_version and (
            most is None or inputs_within(extras_of(plan, few, before), most, limit, inputs) > 0
        )
        canaries = few if automatic else 0
    extras = extras_of(plan, min(canaries, len(plan.data)), before)
    within = inputs if most is None else inputs_within(extras, most, limit, inputs)
    asked = None if most is None else within * most
    others = None if asked is None else extras.queries(within, asked)
    total = None if asked is None or others is None else asked + others
    call = service.adapter.images_per_call
    together = clean.images if within else 0  # several a call, like votes; known images and the question go alone
    calls = None if asked is None or others is None else (asked + together) / call + others - together
    seconds = None if calls is None or options.calls.per_second is None else calls / options.calls.per_second
    size = upload_bytes(plan)
    best = None
    if limit is not None:
        n0 = plan.estimator.n0 if isinstance(plan.estimator, FixedEstimator) else 0
        left = max(limit - n0 - extras.queries(1, limit), 1)
        bound = failure_upper_bound(0, left, plan.estimator.alpha)
        best = radius_of(plan.law, plan.norm, plan.convert_from, bound, plan.noise_source().probability_slack)
    return {
        "inputs": inputs,
        "inputs_within_budget": within,
        "queries_per_input": most,
        "queries": votes,
        "queries_within_budget": asked,
        "question_queries": question if within else 0,
        "preflight_queries": together,
        "preflight_off": clean.why_not or None,
        "canaries": canaries,
        "canary_queries": None if others is None else others - (before if within else 0),
        "watching_queries_if_unversioned": (
            extras_of(plan, few, before).queries(within, asked) - extras.queries(within, asked)
            if may_change and asked is not None
            else 0
        ),
        "total_queries": total,
        "cost": None if total is None else options.budget.cost(total),
        "cost_without_budget": None if votes is None else options.budget.cost(votes + extras.queries(inputs, votes)),
        "price_per_1000": options.budget.price_per_1000,
        "price_date": options.budget.price_date,
        "hours": None if seconds is None else seconds / 3600.0,
        "upload_megabytes": None if total is None else total * size / 1e6,
        "largest_radius": plan.largest_radius(),
        "largest_radius_for_money": best,
    }


def forecast_text(found: dict[str, Any]) -> list[str]:
    """Return the forecast as lines for people."""
    most = found["queries_per_input"]
    if most is None:
        return ["service  no cap on the queries of an input: give --cap to know what the run can cost"]
    lines = [
        f"service  {found['inputs_within_budget']:,} of {found['inputs']:,} inputs, up to {most:,} queries each: "
        f"{found['queries_within_budget']:,} votes{_beside(found)}; {found['total_queries']:,} queries, about "
        f"{size_text(found['upload_megabytes'] * 1e6)} to upload"
    ]
    if found["watching_queries_if_unversioned"]:
        lines.append(
            f"         up to {found['watching_queries_if_unversioned']:,} queries more, within the budget, for known images "
            "that show a change, should the service report no version (--canaries 0: none)"
        )
    if found["preflight_off"] is not None:
        lines.append(f"         no clean accuracy beforehand: {found['preflight_off']}")
    if found["hours"] is not None:
        lines.append(f"time     at least {clock(found['hours'] * 3600.0)} at the rate limit")
    if found["cost"] is not None:
        day = "" if found["price_date"] is None else f", price of {found['price_date']}"
        lines.append(f"money    up to {found['cost']:,.2f} ({found['price_per_1000']:g} per 1,000 images{day})")
    lines.append(f"radius   at most {found['largest_radius']:.4g} when all votes of an input agree")
    if found["largest_radius_for_money"] is not None:
        lines.append(
            f"         the whole budget on one input could prove {found['largest_radius_for_money']:.4g} and no more"
        )
    return lines


def _beside(found: dict[str, Any]) -> str:
    parts = []
    if found["question_queries"]:
        parts.append(f"{found['question_queries']:,} before the first vote")
    if found["preflight_queries"]:
        parts.append(f"{found['preflight_queries']:,} for clean accuracy")
    if found["canary_queries"]:
        parts.append(f"{found['canary_queries']:,} about {found['canaries']} known images")
    return "".join(f", {part}" for part in parts)


def size_text(size: float | int) -> str:
    """Return a number of bytes as people write it: "80 kB", "1.2 MB", "35 GB"."""
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if size >= u), (1e3, "kB"))
    value = size / unit
    return f"{value:.1f} {name}" if 0.05 <= value < 9.95 else f"{value:,.0f} {name}" if size else "nothing"


def upload_bytes(plan: RunPlan) -> float:
    """Return the mean size of a noisy image as the adapter sends it, from the body of one call."""
    service: Service = plan.service
    index = plan.indices[0]
    x = plan.data.inputs([index])[0]
    noisy = plan.noise_source().draw(x, index, Phase.ATTACK, 0, max(service.adapter.images_per_call, 8))
    images = quantize(noisy if service.before is None else service.before(noisy))
    call = service.adapter.images_per_call
    bodies = [service.adapter.prepare(images[at : at + call]) for at in range(0, len(images), call)]
    return sum(map(_bytes, bodies)) / len(images) * float(getattr(service.adapter, "growth", 1.0))


def _bytes(body: Any) -> int:
    """Return the bytes of what `Adapter.prepare` made, whose parts are bytes and short text about them."""
    if isinstance(body, bytes):
        return len(body)
    return sum(map(_bytes, body)) if isinstance(body, tuple) else 0
