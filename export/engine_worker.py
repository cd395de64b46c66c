"""Builds one engine in a process of its own: TensorRT's parser ends the process over some graphs, and a server may too.

A job comes as one line of JSON on standard input; progress and the outcome go as lines of JSON to standard output.
When standard input ends, the build is cancelled.
"""

import dataclasses
import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import IO, Any

if not __package__:  # run as a file: the repository root, not export/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from export.engine_config import configured, save_timing_cache
from export.engine_job import TITLES, BuildJob, Built, Refused
from export.engine_watch import Tell, make_log, make_monitor
from trt_plugins.flavors import Tensorrt, TensorrtMissing, open_tensorrt
from trt_plugins.registration import RegistrationError, register

_PLUGIN_LAYERS = ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3")
# TensorRT 11 knows nothing but strong typing; the second is for plugins whose machine code becomes part of the engine.
_NETWORK_FLAGS = ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS")
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def main() -> int:
    """Runs the program; returns its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both processes; the parent cancels
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no message
    lock = threading.Lock()

    def tell(**message: Any) -> None:
        with lock:
            print(json.dumps(message), file=told, flush=True)

    asked = sys.stdin.readline()
    if not asked:  # whoever wanted an engine is gone
        return 0
    job = BuildJob(**json.loads(asked))
    cancelled = threading.Event()
    threading.Thread(target=_watch, args=(sys.stdin, cancelled), daemon=True).start()
    try:
        tell(built=dataclasses.asdict(build(job, tell, cancelled)))
    except Refused as refused:
        tell(refused=refused.kind, text=str(refused), op=refused.op)
    except (RegistrationError, TensorrtMissing) as error:
        tell(refused="asked", text=str(error), op="")
    told.close()
    sys.stderr.flush()
    os._exit(0)  # what TensorRT does when Python takes it apart is of no interest any more


def _watch(source: IO[str], cancelled: threading.Event) -> None:
    source.read()
    cancelled.set()


def build(job: BuildJob, tell: Tell, cancelled: threading.Event) -> Built:
    """Parses, builds, and writes the plan.

    Raises:
        Refused: see the class.
    """
    tensorrt = open_tensorrt(job.flavor)
    trt = tensorrt.module
    log = make_log(trt, job.verbose)
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError):  # a null pointer to the bindings
        raise Refused(
            "asked", f"{TITLES[tensorrt.flavor]} builds on a machine with an NVIDIA GPU only: {log.last}"
        ) from None
    tell(phase="Reading the graph", steps=0)
    network = _parsed(job, tensorrt, builder, log)
    tell(finished="Reading the graph")
    config, timed = configured(job, tensorrt, builder)
    monitor = make_monitor(trt, tell, cancelled)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = None if cancelled.is_set() else builder.build_serialized_network(network, config)
    if cancelled.is_set():
        raise Refused("cancelled", "cancelled")
    if plan is None:
        raise Refused("build", log.last or "it gave no reason")
    try:
        Path(job.plan).write_bytes(memoryview(plan))
    except OSError as error:
        raise Refused("asked", f"{job.plan} cannot be written: {error.strerror}") from None
    if timed:
        save_timing_cache(job, config)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    plugins = [onnx_name(layer) for layer in layers if layer.type.name in _PLUGIN_LAYERS]
    return Built(dict(Counter(layer.type.name for layer in layers)), plugins)


def _parsed(job: BuildJob, tensorrt: Tensorrt, builder: Any, log: Any) -> Any:
    trt = tensorrt.module
    if job.plugins:
        register(tensorrt, code=job.plugin_code)
    kinds = trt.NetworkDefinitionCreationFlag
    flags = [getattr(kinds, name) for name in _NETWORK_FLAGS if hasattr(kinds, name)]
    network = builder.create_network(sum(1 << int(flag) for flag in flags))
    raw = Path(job.onnx).read_bytes()
    if hashlib.sha256(raw).hexdigest() != job.sha256:
        raise Refused("parse", "the file changed while it was read")
    parser = trt.OnnxParser(network, log)
    if not parser.parse(raw):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise Refused("parse", errors[0].desc() if errors else log.last, errors[0].node_operator() if errors else "")
    return network


def onnx_name(layer: Any) -> str:
    """Name of the ONNX node that a layer was made from."""
    found = _ONNX_LAYER.search(layer.metadata or "")
    return found.group(1) if found else str(layer.name)


if __name__ == "__main__":
    sys.exit(main())
