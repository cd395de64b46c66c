"""The model that a recipe names, built for its task's data."""

from typing import Any

from torch import nn

from skipvit.models import SkipVisionTransformer, create_model
from skipvit.origin import task_of_name
from train.recipe import Recipe, RecipeError


def build_model(recipe: Recipe, args: dict[str, Any], guided: bool = False) -> nn.Module:
    """The model with fresh weights; the caller seeds torch first.

    Args:
        args: the recipe's arguments of the model, with those that the task has added.
        guided: its static blocks keep their dynamic branch.

    Raises:
        RecipeError: no such model, its arguments do not suit it, or there is nothing in it to guide.
    """
    if "static_guided" in args:
        raise RecipeError("model.args has static_guided, which [guide] decides; leave it out")
    if (task := task_of_name(recipe.model.name)) != recipe.task:  # before its arguments, which are the other task's
        raise RecipeError(
            f"model.name = {recipe.model.name!r} is a model for {task}, and the recipe's task is {recipe.task}"
        )
    try:
        model = create_model(recipe.model.name, **args, **({"static_guided": True} if guided else {}))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        hint = "; [guide] is for models of ours with static blocks" if guided else ""
        raise RecipeError(f"model.name = {recipe.model.name!r} cannot be built: {error}{hint}") from None
    if guided and not (isinstance(model, SkipVisionTransformer) and model.spec.static):
        raise RecipeError(
            f"[guide] trains static blocks, and {recipe.model.name} with these arguments has none; "
            "choose a model that has, give a spec in model.args, or set guide.ramp=0"
        )
    return model


def is_guided(recipe: Recipe) -> bool:
    """Whether training begins with a dynamic branch beside the static matrices."""
    return recipe.guide is not None and recipe.guide.ramp > 0
