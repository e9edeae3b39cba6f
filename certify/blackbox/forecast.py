"""What a run on a service will ask, cost and be able to prove, before the first question."""

from typing import Any

from certify.blackbox.images import encode_png, quantize
from certify.blackbox.spec import Service
from certify.run_plan import RunPlan, radius_of
from smoothing.estimators.base import Phase
from smoothing.estimators.fixed import FixedEstimator
from smoothing.statistics.binomial import failure_upper_bound


def service_forecast(plan: RunPlan) -> dict[str, Any]:
    """Return queries, money, hours, upload and radii as JSON-ready data.

    `largest_radius` is that of this run when all votes of an input agree; `largest_radius_for_money` what the whole budget
    would buy if it were spent on a single input.

    Args:
        plan: With a service.
    """
    service: Service = plan.service
    options, inputs = service.options, len(plan.indices)
    most = plan.votes_per_input
    queries = None if most is None else inputs * most
    limit = options.budget.queries
    startable = inputs if limit is None or most is None else min(inputs, limit // most)
    asked = None if queries is None or most is None else startable * most
    call = service.adapter.images_per_call
    seconds = None if asked is None or options.calls.per_second is None else asked / call / options.calls.per_second
    size = _png_bytes(plan)
    best = None
    if limit is not None:
        n0 = plan.estimator.n0 if isinstance(plan.estimator, FixedEstimator) else 0
        votes = max(limit - n0, 1)
        bound = failure_upper_bound(0, votes, plan.estimator.alpha)
        best = radius_of(plan.law, plan.norm, plan.convert_from, bound, plan.noise_source().probability_slack)
    return {
        "inputs": inputs,
        "inputs_within_budget": startable,
        "queries_per_input": most,
        "queries": queries,
        "queries_within_budget": asked,
        "cost": None if asked is None else options.budget.cost(asked),
        "cost_without_budget": None if queries is None else options.budget.cost(queries),
        "price_per_1000": options.budget.price_per_1000,
        "price_date": options.budget.price_date,
        "hours": None if seconds is None else seconds / 3600.0,
        "upload_megabytes": None if asked is None else asked * size / 1e6,
        "largest_radius": plan.largest_radius(),
        "largest_radius_for_money": best,
        "preflight_queries": 1 if not options.budget.paid or limit is not None else 0,
    }


def forecast_text(found: dict[str, Any]) -> list[str]:
    """Return the forecast as lines for people."""
    most = found["queries_per_input"]
    if most is None:
        return ["service  no cap on the queries of an input: give --cap to know what the run can cost"]
    lines = [
        f"service  {found['inputs_within_budget']:,} of {found['inputs']:,} inputs, up to {most:,} queries each: "
        f"{found['queries_within_budget']:,} queries, about {found['upload_megabytes']:,.0f} MB of PNG to upload"
    ]
    if found["hours"] is not None:
        lines.append(f"time     at least {found['hours']:.2f} h at the rate limit")
    if found["cost"] is not None:
        day = "" if found["price_date"] is None else f", price of {found['price_date']}"
        lines.append(f"money    up to {found['cost']:,.2f} ({found['price_per_1000']:g} per 1,000 images{day})")
    lines.append(f"radius   at most {found['largest_radius']:.4g} when all votes of an input agree")
    if found["largest_radius_for_money"] is not None:
        lines.append(
            f"         the whole budget on one input could prove {found['largest_radius_for_money']:.4g} and no more"
        )
    return lines


def _png_bytes(plan: RunPlan) -> float:
    """Return the mean size of a few noisy images as they would be sent."""
    index = plan.indices[0]
    x = plan.data.inputs([index])[0]
    images = quantize(plan.noise_source().draw(x, index, Phase.ATTACK, 0, 8))
    return sum(len(encode_png(image)) for image in images) / len(images)
