"""Weights out of files that strangers wrote, and into a model that they have to fit.

A file is .safetensors, or what torch.save wrote; the latter is a pickle and is read as plain data only, so that none
of its code runs. Whatever trainers wrap the weights in is taken off: containers, and prefixes of wrapped models.
"""

import argparse
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skipvit.models.timm_guard import timm

# Where trainers put the weights, beside optimiser and options; timm's order, which takes the EMA's where there are any.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_MAX_BYTES = 8 << 30  # a model of 500 million parameters with EMA and Adam's state
_SHOWN = 3  # names in a message

_vit: Any = timm.models.vision_transformer


class WeightsError(Exception):
    """A file's weights cannot be used; the message names the file and says why."""


class MismatchError(WeightsError):
    """The weights are another model's, or those of the same model built with other arguments."""


class State(NamedTuple):
    """A file's weights by name, and the key of the file under which they lay ("" for its top level)."""

    tensors: dict[str, Tensor]
    container: str


def read_state(path: Path, containers: Sequence[str] = CONTAINERS) -> State:
    """Reads a file's weights; large ones are mapped, not copied.

    Args:
        containers: keys under which the weights may lie, the first choice first.

    Raises:
        WeightsError: there is no such file, it is too large, holds anything but weights, or would run code.
    """
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    if size is None:
        raise WeightsError(f"{path} is not there; give the path of a .safetensors or .pth file")
    if size > _MAX_BYTES:
        raise WeightsError(f"{path} has {size >> 20} MiB, weights may have {_MAX_BYTES >> 20}; save the weights alone")
    content = _safetensors(path) if path.suffix == ".safetensors" else _unpickled(path)
    container = next((key for key in containers if isinstance(content.get(key), Mapping)), "")
    return State(_plain(content[container] if container else content, path), container)


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold weights: {error}") from None


def _unpickled(path: Path) -> Mapping[Any, Any]:
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise WeightsError(f"{path} is compressed, which torch.save never does; unpack it first")
        # timm's and DeiT's trainers leave their options beside the weights, as a Namespace: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except WeightsError:
        raise
    except Exception as error:  # torch.load turns a hostile or torn pickle, and its own refusals, into many types
        # torch's own text goes on to recommend loading the file unsafely.
        named = re.search(r"GLOBAL (\S+)", str(error))
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        why = f"it asks for {named[1]}" if named else _clean(first)
        raise WeightsError(
            f"{path} cannot be read safely as weights ({why}); only tensors are read from a file, none of its code"
        ) from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} does not hold weights but a {type(content).__name__}; save a model's state_dict()")
    return content


def _plain(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors under their names in the model itself."""
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise WeightsError(f"{path} does not hold weights: a {type(name).__name__} stands where a name should be")
        if type(value) not in (Tensor, nn.Parameter):
            raise WeightsError(
                f"{path} does not hold weights: {_clean(name)} is a {type(value).__name__}, not a tensor; "
                "save a model's state_dict()"
            )
        # A pickle may describe a tensor far larger than the file, without data or with the same element over and over.
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise WeightsError(f"{path} does not hold weights: {_clean(name)} is not a dense tensor with its data")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise WeightsError(f"{path} does not hold weights: {_clean(name)} claims more elements than are stored")
        bare = _without_prefixes(name)
        if bare in tensors:
            raise WeightsError(f"{path} names {_clean(bare)} twice, with a wrapper's prefix and without; save it anew")
        tensors[bare] = value.detach()
    return tensors


def _without_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.removeprefix(_PREFIXES[0]).removeprefix(_PREFIXES[1])
    return name


def fitted_to(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights as ``model`` names and shapes them, and what was done to them in words, "" for nothing.

    A ViT takes what timm takes for one: the names of older files, and position embeddings of another resolution, which
    are resampled. Embeddings that already have the model's shape are taken as they are. Whatever else differs is left
    as it is, for `load_weights` to refuse.
    """
    if not isinstance(model, _vit.VisionTransformer):
        return dict(state), ""
    try:
        fitted: dict[str, Tensor] = _vit.checkpoint_filter_fn(dict(state), model, adapt_layer_scale=True)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return dict(state), ""  # another model's weights
    own = model.state_dict()
    for name, tensor in state.items():
        # timm resamples patches of another size too, and takes a grid of the right count but other sides for one to
        # resample; the former are weights of another model, and the latter as often the model's own.
        patches = name == "patch_embed.proj.weight" and tensor.ndim == 4
        if name in fitted and (patches or (name in own and own[name].shape == tensor.shape)):
            fitted[name] = tensor
    before, after = state.get("pos_embed"), fitted.get("pos_embed")
    if before is None or after is None or before.shape == after.shape:
        return fitted, ""
    return fitted, f"position embeddings resampled from {before.shape[1]} to {after.shape[1]} tokens"


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Puts weights into a model, all of them and no others.

    Raises:
        MismatchError: names, shapes or kinds differ.
        WeightsError: a weight is not finite. The model is then not to be used.
    """
    _check_shapes(model.state_dict(), state, source)
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a model's own loading hook may find more to refuse
        raise MismatchError(f"{source} does not hold weights of this model: {_clean(str(error))}") from None
    differences = [
        f"{what} {listed(names)}"
        for what, names in (("missing", result.missing_keys), ("unexpected", result.unexpected_keys))
        if names
    ]
    if differences:
        raise MismatchError(f"{source} does not hold weights of this model: {'; '.join(differences)}")
    check_finite(model.state_dict(), source)


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises WeightsError, naming the first tensor that holds a NaN or an infinity; one on "meta" holds nothing."""
    for name, tensor in tensors.items():
        if tensor.is_meta:
            continue
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
            raise WeightsError(
                f"{source}: {int((~finite).sum())} of the {tensor.numel()} values of {_clean(name)} are NaN or "
                "infinite; the training that wrote it had diverged, take an earlier file"
            )


def listed(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    clean = [_clean(name) for name in names]
    return ", ".join(clean[:_SHOWN]) + (f" and {len(clean) - _SHOWN} more" if len(clean) > _SHOWN else "")


def _clean(text: str) -> str:
    """A stranger's text for a terminal: no control characters, and not pages of it."""
    return text.encode("unicode_escape").decode()[:160]


def _check_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    wrong = [
        f"{name} is {_kind(tensor)} and should be {_kind(own[name])}"
        for name, tensor in state.items()
        if name in own
        and (tensor.shape != own[name].shape or tensor.is_floating_point() != own[name].is_floating_point())
    ]
    if wrong:
        raise MismatchError(f"{source} does not hold weights of this model: {listed(wrong)}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
