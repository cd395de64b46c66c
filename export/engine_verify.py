"""Does an engine compute what its ONNX file says? It is run on the GPU, and compared with ONNX Runtime on the CPU.

TensorRT has computed fused attention wrongly without a word (issue 4837 of NVIDIA/TensorRT): no build goes without.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.engine_inputs import Batch, as_served, inputs_for
from export.engine_job import TITLES
from export.engine_parity import Runs, compare
from export.engine_recipe import Recipe
from export.engine_reference import reference_outputs
from skipvit.manifest import Parity
from trt_plugins import session as gpu_session
from trt_plugins.engine_plan import EngineError


def verified(recipe: Recipe, plan: Path, images: Path | None) -> tuple[Parity | None, str]:
    """The figures, or None and why the engine cannot be run here.

    Args:
        images: folder of pictures to compare on instead of the entry's.

    Raises:
        EngineError: an engine that was built for this GPU does not run on it.
        OriginError: the pictures cannot be read.
        ParityError: the engine strays from the file further than its precision allows.
    """
    if recipe.gpu is None:
        return None, "no NVIDIA GPU was found here"
    if recipe.job.strip:
        return None, "it was stripped of its weights"
    if not all(usual for _, usual, _ in recipe.job.profiles.values()):
        return None, "one of its inputs is a single value, and what is compared are batches"
    profiles = as_served(recipe.target, recipe.job.profiles)
    inputs = inputs_for(recipe.target, profiles, images)
    rows = {name: profile.usual[1:] for name, profile in profiles.items()}
    try:
        session = gpu_session.open_session(plan, recipe.tensorrt, rows=rows)
    except EngineError as error:
        if recipe.tensorrt.flavor == "tensorrt-rtx":  # which builds for GPUs other than the one that is here
            return None, str(error)
        raise
    # A server runs one picture as it runs many, so the same ones come again in each size of batch that it will run:
    # TensorRT-RTX compiles kernels for every shape. Of a graph that is not ours, rows may depend on each other.
    sizes = session.buckets if recipe.target.entry else ()
    try:
        found = [session.run(batch) for batch in [*inputs.batches, *_again(inputs.batches, sizes)]]
    finally:
        session.close()
    engine = f"{TITLES[recipe.tensorrt.flavor]} {recipe.tensorrt.version} on {session.gpu}"
    reference = reference_outputs(recipe.target.graph.path, recipe.target.precision, inputs.batches)
    reference += _again(reference, sizes)
    runs = Runs(reference, found, engine, inputs.images, inputs.source, inputs.real)
    return compare(recipe.file, recipe.target.precision, recipe.target.manifest, runs, recipe.job.tf32), ""


def _again(batches: Sequence[Batch], sizes: Sequence[int]) -> list[Batch]:
    """The rows of all batches, from the first on and around, in batches of these sizes."""
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return [{name: values[np.arange(size) % len(values)] for name, values in rows.items()} for size in sizes]
