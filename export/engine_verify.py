"""Does an engine compute what its ONNX file says? It is run on the GPU, and compared with ONNX Runtime on the CPU.

TensorRT has computed fused attention wrongly without a word (issue 4837 of NVIDIA/TensorRT): no build goes without.
"""

from collections.abc import Sequence
from pathlib import Path

from export.engine_inputs import Batch, inputs_for
from export.engine_job import TITLES
from export.engine_parity import Outputs, Runs, compare
from export.engine_recipe import Recipe
from export.measures import ParityError, open_session
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
    inputs = inputs_for(recipe.target, recipe.job.profiles, images)
    rows = {name: tuple(usual[1:]) for name, (_, usual, _) in recipe.job.profiles.items()}
    try:
        session = gpu_session.open_session(plan, recipe.tensorrt, rows=rows)
    except EngineError as error:
        if recipe.tensorrt.flavor == "tensorrt-rtx":  # which builds for GPUs other than the one that is here
            return None, str(error)
        raise
    try:
        found = [session.run(batch) for batch in inputs.batches]
    finally:
        session.close()
    engine = f"{TITLES[recipe.tensorrt.flavor]} {recipe.tensorrt.version} on {session.gpu}"
    reference = _reference(recipe.target.graph.path, inputs.batches)
    runs = Runs(reference, found, engine, inputs.images, inputs.source, inputs.real)
    return compare(recipe.file, recipe.target.precision, recipe.target.manifest, runs, recipe.job.tf32), ""


def _reference(path: Path, batches: Sequence[Batch]) -> list[Outputs]:
    try:
        session = open_session(path)
    except Exception as error:  # ONNX Runtime's errors have no common public base
        raise ParityError(
            f"ONNX Runtime cannot run {path} on the CPU ({' '.join(str(error).split())[:200]}), so there is nothing to "
            "compare the engine with; --no-parity builds it unverified"
        ) from None
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, batch), strict=True)) for batch in batches]
