"""Trained models that a run starts from: a checkpoint folder, a file of weights, or a timm model with timm's."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor, nn

from skipvit.checkpoints import DESCRIPTION, CheckpointError, load_model
from skipvit.models import SkipVisionTransformer, Spec
from skipvit.models.timm_guard import timm
from skipvit.origin import Origin, resolve, task_of
from skipvit.picture_files import OriginError
from skipvit.weights import MismatchError, WeightsError, load_weights, read_state
from train.calibrate import calibrate
from train.recipe import RecipeError

NONE = "none"


def load_start(model: nn.Module, source: str, pictures: Callable[[], Iterable[Tensor]]) -> str:
    """Puts the weights of ``source`` into a fresh model, and returns in words what was done ("" without a source).

    The source must have the model's weights, all of them and no others, but for the head of another class count, which
    stays fresh. A plain ViT of timm's is first brought under the model's spec: static matrices inherit its mean
    attention, and what else the spec adds stays fresh.

    Args:
        pictures: batches (B, 3, H, W) on the model's device, to average attention over; called when there is need.

    Raises:
        RecipeError: the source cannot be had, or does not fit.
    """
    if source == NONE:
        return ""
    if os.path.isfile(source):
        _load_file(model, Path(source))
        return f"weights of {source}"
    given, done, twin = _given(source), list[str](), None
    if type(given) is timm.models.vision_transformer.VisionTransformer and isinstance(model, SkipVisionTransformer):
        try:
            twin = SkipVisionTransformer.from_vit(given, Spec(tokens=model.spec.tokens), model.choices)
            given = SkipVisionTransformer.from_vit(given, model.spec, model.choices)
        except ValueError as error:
            raise RecipeError(f"model.weights = {source!r} cannot become the model: {error}") from None
        done.append(f"a plain ViT's, brought under '{model.spec}'")
    state, own = dict(given.state_dict()), model.state_dict()
    if head := _other_head(given, model):
        state |= {name: own[name] for name in head}
        done.append(f"a fresh head, for {own[head[0]].shape[0]} classes where {source} has other classes")
    try:
        load_weights(model, state, source)
    except MismatchError as error:
        hint = "give model.name and model.args as it was trained with them, or other weights"
        if any(".attn.qk." in name for name in own.keys() - state.keys()):
            hint = "[guide] needs queries and keys, which a static model has left behind: start from the plain ViT"
        raise RecipeError(f"model.weights: {error}; {hint}") from None
    except WeightsError as error:
        raise RecipeError(f"model.weights: {error}") from None
    if twin is not None and isinstance(model, SkipVisionTransformer) and model.spec.static:
        calibrate(model, twin.to(next(model.parameters()).device), pictures)
        done.append("static matrices inherit its mean attention")
    return "; ".join([f"weights of {source}", *done])


def _load_file(model: nn.Module, path: Path) -> None:
    """Weights that others released, such as Uformer_B.pth; they must be the model's own, all of them."""
    try:
        load_weights(model, read_state(path).tensors, str(path))
    except MismatchError as error:
        raise RecipeError(
            f"model.weights: {error}; give model.name and model.args as it was trained with them"
        ) from None
    except WeightsError as error:
        raise RecipeError(f"model.weights: {error}") from None


def _given(source: str) -> nn.Module:
    """The trained model that ``source`` names, of any task."""
    try:
        if task_of(source) != "classification" and os.path.exists(Path(source) / DESCRIPTION):
            return load_model(Path(source))[0]
    except CheckpointError as error:
        raise RecipeError(f"model.weights = {source!r} cannot be used: {error}") from None
    return open_source("model.weights", source).model


def open_source(key: str, source: str) -> Origin:
    """The trained model that the recipe's ``key`` names: a checkpoint's, or timm's with the weights that timm fetches.

    Raises:
        RecipeError: it cannot be had.
    """
    is_checkpoint = os.path.exists(Path(source) / DESCRIPTION)
    try:
        return resolve(source, None, pretrained=not is_checkpoint, model_args={})
    except (OriginError, CheckpointError, ValueError) as error:
        raise RecipeError(
            f"{key} = {source!r} is neither a checkpoint that can be used nor a timm model whose weights can be had: "
            f"{error}"
        ) from None


def _other_head(given: nn.Module, model: nn.Module) -> list[str]:
    """Names of the classifier's weights where the two models have different numbers of classes."""
    if getattr(given, "num_classes", None) == getattr(model, "num_classes", None):
        return []
    classifier = getattr(model, "default_cfg", {}).get("classifier")
    own = model.state_dict().keys()
    return [name for name in own if isinstance(classifier, str) and name.startswith(f"{classifier}.")]
