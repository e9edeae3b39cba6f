"""Recipes: named settings of whole trainings, in files beside this one or of the user's own, every value overridable.

A file holds what its recipes share (`[train]`), a table per method, and what differs by sigma. The name of a recipe is
DATA-METHOD-SIGMA, with the file's suffix after it: `mnist-smoothadv-0.5`, `mnist-smoothadv-0.5-fast`.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from certify.errors import UsageError
from certify.models.base import did_you_mean
from certify.training.plan import TrainOptions
from smoothing.training import describe_parameters, parse_parameters

_NOT_IN_RECIPES = {"out", "command", "overwrite", "recipe", "data", "objective", "settings", "parameters", "data_root"}


@dataclass(frozen=True)
class Recipe:
    """One training, as far as a recipe decides it.

    Attributes:
        name: For instance "mnist-smoothadv-0.5".
        data: Data set.
        method: Method, for instance "smoothadv-consistency"; several methods may share an objective.
        sigma: Of the Gaussian noise.
        objective: A key of `OBJECTIVES`.
        settings: Its parameters.
        train: Other fields of `TrainOptions` by name.
        source: Where the values come from.
    """

    name: str
    data: str
    method: str
    sigma: float
    objective: str
    settings: dict[str, Any]
    train: dict[str, Any]
    source: str

    def values(self) -> dict[str, Any]:
        """Return everything as fields of `TrainOptions`."""
        return {
            "data": self.data,
            "noise": "gaussian",
            "parameters": (("sigma", self.sigma),),
            "objective": self.objective,
            "settings": tuple(self.settings.items()),
            "recipe": self.name,
            **self.train,
        }


@cache
def recipes() -> Mapping[str, Recipe]:
    """Return the recipes that come with the program, by name."""
    found: dict[str, Recipe] = {}
    folder = resources.files("certify.training") / "recipes"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            found.update(read_recipes(file.read_text(encoding="utf-8"), file.name))
    return found


def find_recipe(name: str) -> Recipe:
    """Return the recipe that `name` names: one of ours, or FILE.toml:NAME (the name may be left out where there is one).

    Raises:
        UsageError: If there is no such recipe, or the file is not one of recipes.
    """
    name = re.sub(r"-(\d+)\.0(?=-|$)", r"-\1", name)  # mnist-gaussian-1.0 is mnist-gaussian-1
    path, sign, inner = name.partition(".toml")
    if sign:
        return _from_file(Path(path + sign), inner.removeprefix(":"))
    if name not in recipes():
        near = did_you_mean(name, recipes())
        raise UsageError(
            f"recipe must be one of `certify train --list-recipes`, or FILE.toml:NAME, got recipe={name!r}{near}"
        )
    return recipes()[name]


def _from_file(path: Path, name: str) -> Recipe:
    try:
        found = read_recipes(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recipes in {path}: {error}") from error
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise UsageError(f"{path} holds {', '.join(found)}: name one of them as {path}:NAME, got {name!r}")
    return found[name]


def read_recipes(text: str, source: str) -> dict[str, Recipe]:
    """Return the recipes in the text of a file, by name.

    Raises:
        UsageError: If it is not TOML, lacks a part, or sets what a training or an objective does not take.
    """
    try:
        content = tomllib.loads(text)
        data, sigmas, methods = content["data"], content["sigmas"], content["methods"]
        suffix = f"-{content['suffix']}" if "suffix" in content else ""
        found = {}
        for name in data:
            for method, own in methods.items():
                for sigma in sigmas:
                    recipe = _recipe(content, own, name, method, float(sigma), suffix)
                    found[recipe.name] = recipe
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not a TOML file: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{source} must hold data, sigmas, [train] and [methods.NAME] with an objective, but {error} is missing or wrong"
        ) from error
    for recipe in found.values():
        _check(recipe, source)
    return found


def _recipe(
    content: Mapping[str, Any], own: Mapping[str, Any], data: str, method: str, sigma: float, suffix: str
) -> Recipe:
    special = own.get("sigma", {}).get(f"{sigma}", {})
    return Recipe(
        name=f"{data}-{method}-{sigma:g}{suffix}",
        data=data,
        method=method,
        sigma=sigma,
        objective=own["objective"],
        settings={**own.get("settings", {}), **special.get("settings", {})},
        train={**content.get("train", {}), **own.get("train", {}), **special.get("train", {})},
        source=own.get("source", content["source"]),
    )


def _check(recipe: Recipe, source: str) -> None:
    known = {field.name for field in fields(TrainOptions)} - _NOT_IN_RECIPES
    unknown = sorted(set(recipe.train) - known)
    if unknown:
        raise UsageError(
            f"{source}: [train] of {recipe.name} takes {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    # Reading the values as text finds parameters that the objective does not take.
    parse_parameters(recipe.objective, {key: str(value).lower() for key, value in recipe.settings.items()})


def describe_recipe(recipe: Recipe) -> str:
    """Return objective and parameters in a line, for the list of recipes."""
    settings = ", ".join(f"{key}={value}" for key, value in recipe.settings.items())
    return (
        f"{recipe.objective}({settings})"
        if settings
        else f"{recipe.objective}({describe_parameters(recipe.objective)})"
    )
