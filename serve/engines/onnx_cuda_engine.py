"""ONNX Runtime with CUDA, of the package onnxruntime-gpu; refuses to run where ONNX Runtime would take the CPU."""

from functools import cache
from pathlib import Path

import onnxruntime as ort

from serve.engines.engine import EngineUnavailable, OnnxEngine, session_options
from serve.tasks import Contract

PROVIDER = "CUDAExecutionProvider"
_OPTIONS = {
    # A search of every algorithm is repeated for every batch size; the rule of thumb is not.
    "cudnn_conv_algo_search": "HEURISTIC",
    # TF32 keeps 10 bits of a product's factors. The manifest's figures of parity were measured without it.
    "use_tf32": "0",
}


def has_cuda_build() -> bool:
    """Whether the installed ONNX Runtime could use a GPU; it says so on machines without one too."""
    return PROVIDER in ort.get_available_providers()


class OnnxCudaEngine(OnnxEngine):
    """One session on the GPU. ONNX Runtime copies in and out and waits, in the thread that calls.

    IOBinding would save copies only between runs that share tensors: here every input comes from the host and the one
    output that is fetched goes there.
    """

    def open_session(self, path: Path, contract: Contract) -> ort.InferenceSession:
        if not has_cuda_build():
            raise EngineUnavailable(
                "onnx-cuda needs ONNX Runtime with CUDA, the one here is for CPUs, and they share a module; run: pip "
                "uninstall -y onnxruntime onnxruntime-gpu && pip install 'skipvit[serve-gpu]'"
            )
        _load_libraries()
        session = ort.InferenceSession(
            str(path), session_options(contract), providers=[(PROVIDER, _OPTIONS), "CPUExecutionProvider"]
        )
        # Where CUDA does not start, ONNX Runtime logs an error and goes on without.
        if session.get_providers()[0] != PROVIDER:
            raise EngineUnavailable(
                f"ONNX Runtime cannot use CUDA here and would run {path} on the CPU; its lines above have the cause, "
                "as a rule a driver, CUDA 13 or cuDNN 9 that is missing. See nvidia-smi, install 'skipvit[serve-gpu]', "
                "or give --engine onnx-cpu"
            )
        session.disable_fallback()
        return session


@cache
def _load_libraries() -> None:
    """Loads CUDA and cuDNN of NVIDIA's Python packages, which the loader does not find by itself."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
