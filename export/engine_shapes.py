"""Optimisation profiles: the smallest, usual and largest shape of every input, from the manifest or from flags."""

from collections.abc import Mapping, Sequence

from export.engine_arguments import Batches, Profile
from export.engine_graph import Graph, GraphError
from skipvit.manifest import Manifest, Task

_MAX_ELEMENTS = 2**31 - 1  # of a tensor in TensorRT
# Alone, as requests come together, and as many as the server may be told to put together.
_BATCHES: dict[Task, Batches] = {"classification": (1, 8, 64), "denoising": (1, 4, 8), "video-denoising": (1, 1, 2)}


def profiles(
    graph: Graph, manifest: Manifest | None, batches: Batches | None, shapes: Mapping[str, Profile]
) -> dict[str, Profile]:
    """The profile of every input: from ``shapes`` where it is named there, else from batches and the manifest.

    Args:
        manifest: of the entry that the graph belongs to; a denoiser's tile fills the height and the width.
        batches: smallest, usual and largest batch; the task's own if None.

    Raises:
        GraphError: an input has an axis of any length that nothing says anything of, or a shape does not fit the graph.
    """
    unknown = sorted(shapes.keys() - graph.inputs.keys())
    if unknown:
        raise GraphError(f"{graph.path} has no input {unknown[0]!r}, only {', '.join(graph.inputs)}; correct --shape")
    if not graph.inputs:
        raise GraphError(f"{graph.path} has no input, so there is nothing for an engine to compute; export it again")
    if batches and not any(axes and axes[0] is None for _, axes in graph.inputs.values()):
        written = ", ".join(f"{name} {_written(axes)}" for name, (_, axes) in graph.inputs.items())
        raise GraphError(f"{graph.path} has inputs of fixed batches ({written}); leave --batch out")
    batches = batches or _BATCHES[manifest.task if manifest else "classification"]
    found = {}
    for name, (_, axes) in graph.inputs.items():
        profile = shapes.get(name) or _from_batches(name, axes, manifest, batches)
        _check_fits(name, axes, profile)
        _check_multiple(name, axes, profile, manifest)
        found[name] = profile
    return found


def _from_batches(name: str, axes: Sequence[int | None], manifest: Manifest | None, batches: Batches) -> Profile:
    tiling = manifest.tiling if manifest else None
    row: list[int | None] = list(axes[1:])
    if tiling and len(row) >= 3:  # (..., height, width, channels), before which a video has frames
        row[-3:-1] = [tiling.tile if axis is None else axis for axis in row[-3:-1]]
        row[:-3] = [tiling.frames if axis is None else axis for axis in row[:-3]]
    if None in row:
        example = "x".join(str(axis or 64) for axis in row)
        raise GraphError(
            f"input {name} is {_written(axes)}, and only its first axis can be filled from --batch; give "
            f"--shape {name}=1x{example}:8x{example}:64x{example} or the like"
        )
    first = (axes[0], axes[0], axes[0]) if axes and axes[0] is not None else batches
    return Profile(*((batch, *(axis for axis in row if axis is not None)) if axes else () for batch in first))


def _check_fits(name: str, axes: Sequence[int | None], profile: Profile) -> None:
    for shape in profile:
        if len(shape) != len(axes) or any(fixed not in (None, size) for fixed, size in zip(axes, shape, strict=True)):
            raise GraphError(f"input {name} is {_written(axes)}, which {_written(shape)} does not fit; correct --shape")
    for small, usual, large in zip(*profile, strict=True):
        if not 1 <= small <= usual <= large:
            raise GraphError(
                f"input {name}: {_written(profile.smallest)} : {_written(profile.usual)} : {_written(profile.largest)} "
                "must grow from left to right in every axis, from 1 up; correct --shape or --batch"
            )
    elements = 1
    for size in profile.largest:
        elements *= size
    if elements > _MAX_ELEMENTS:
        raise GraphError(f"input {name}: {_written(profile.largest)} is over 2^31 values; give a smaller one")


def _check_multiple(name: str, axes: Sequence[int | None], profile: Profile, manifest: Manifest | None) -> None:
    multiple = manifest.tiling.multiple if manifest and manifest.tiling else 1
    for shape in profile:
        sides = [side for side, fixed in zip(shape[-3:-1], axes[-3:-1], strict=True) if fixed is None]
        if any(side % multiple for side in sides):
            raise GraphError(
                f"input {name}: height and width are multiples of {multiple}, which {_written(shape)} is not"
            )


def _written(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"
