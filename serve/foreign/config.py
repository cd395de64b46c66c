"""Triton's config.pbtxt of a model that is not ours: what this server understands of it, and a refusal of the rest.

A field that would change answers and is not understood is an error; one that only bears on speed is named in
``ForeignConfig.passed_over``, for the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from serve.foreign.text_format import Message, TextFormatError, message_of, parse_text_format
from skipvit.manifest import is_name

MAX_CONFIG_BYTES = 1 << 20
_MOST_ROWS = 4096
_MAX_AXES = 8
_MAX_INSTANCES = 64
_BACKENDS = ("", "onnxruntime")
_PLATFORMS = ("", "onnxruntime_onnx")
_FORMATS = ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW")
_DATATYPES = {
    "TYPE_BOOL": "BOOL",
    **{f"TYPE_{sign}INT{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"TYPE_FP{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "TYPE_STRING": "BYTES",
}
# Each of these decides how fast answers come and none decides what they are.
_SPEED = ("optimization", "metric_tags", "model_metrics", "parameters", "response_cache", "model_warmup")
_BATCHING = (
    "preferred_batch_size",
    "max_queue_delay_microseconds",
    "preserve_ordering",
    "priority_levels",
    "default_priority_level",
    "default_queue_policy",
    "priority_queue_policy",
)


@dataclass(frozen=True, slots=True)
class ConfiguredTensor:
    """An input or output as requests have it, without the batch axis; ``-1`` is any size.

    ``reshaped`` is what the graph has in its place, where that differs.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshaped: tuple[int, ...] | None = None
    format: str = "FORMAT_NONE"
    label_filename: str = ""


@dataclass(frozen=True, slots=True)
class ForeignConfig:
    """What a config.pbtxt says. ``max_batch_size`` is None, and there are no tensors, where the graph is to say it."""

    file: str = "model.onnx"
    max_batch_size: int | None = None
    inputs: tuple[ConfiguredTensor, ...] = ()
    outputs: tuple[ConfiguredTensor, ...] = ()
    dynamic_batching: bool = False
    instances: int | None = None
    passed_over: tuple[str, ...] = ()


def parse_config(raw: bytes, name: str) -> ForeignConfig:
    """Reads the config.pbtxt of the model called ``name``.

    Raises:
        TextFormatError: it cannot be read, or has something that this server would not do.
    """
    try:
        return _config(parse_text_format(raw.decode()), name)
    except UnicodeDecodeError:
        raise TextFormatError("the file is not UTF-8") from None


def parse_json_config(text: str, name: str) -> ForeignConfig:
    """Reads a configuration that came as JSON, in place of the file; it raises what ``parse_config`` does."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise TextFormatError(f"the configuration is not JSON ({error})") from None
    return _config(message_of(document), name)


def _config(message: Message, name: str) -> ForeignConfig:
    _check_identity(message, name)
    passed_over = [*message.ignore(*_SPEED), *_read_version_policy(message)]
    inputs = tuple(_tensor(one, output=False) for one in message.messages("input"))
    outputs = tuple(_tensor(one, output=True) for one in message.messages("output"))
    _check_names(inputs, "input")
    _check_names(outputs, "output")
    rows = message.integer("max_batch_size", -1)
    if not -1 <= rows <= _MOST_ROWS:
        raise TextFormatError(f"max_batch_size is {rows}, from 0 to {_MOST_ROWS} was needed")
    batching = message.message("dynamic_batching")
    if batching is not None:
        passed_over += [f"dynamic_batching.{field}" for field in batching.ignore(*_BATCHING)]
        batching.done()
    instances, more = _instances(message)
    file = message.string("default_model_filename") or "model.onnx"
    if not is_name(file):
        raise TextFormatError(f"default_model_filename is {file[:80]!r}, the plain name of a file was needed")
    message.done()
    unsaid = None if not inputs and not outputs else 0
    return ForeignConfig(
        file,
        unsaid if rows == -1 else rows,
        inputs,
        outputs,
        batching is not None,
        instances,
        (*passed_over, *more),
    )


def _check_identity(message: Message, name: str) -> None:
    said = message.string("name")
    if said not in ("", name):
        raise TextFormatError(f"name is {said[:80]!r}, the folder is {name!r}")
    backend, platform = message.string("backend"), message.string("platform")
    if backend not in _BACKENDS or platform not in _PLATFORMS:
        raise TextFormatError(f"it needs {(platform or backend)[:80]!r}, this server has ONNX Runtime only")
    runtime = message.string("runtime")
    if runtime:
        raise TextFormatError(f"runtime is {runtime[:80]!r}, none was needed")


def _read_version_policy(message: Message) -> list[str]:
    """Versions are chosen in the server's own settings; the usual policy needs no word about it."""
    policy = message.message("version_policy")
    if policy is None:
        return []
    latest = policy.message("latest")
    others = policy.ignore("all", "specific")
    policy.done()
    usual = not others and (latest is None or latest.integer("num_versions", 1) == 1)
    return [] if usual else ["version_policy (see [models.NAME] versions of the server's settings)"]


def _tensor(message: Message, *, output: bool) -> ConfiguredTensor:
    name = message.string("name")
    if not 0 < len(name) <= 256:
        raise TextFormatError(f"{message.at('name')} has {len(name)} characters, 1 to 256 were needed")
    datatype = message.word("data_type")
    if datatype not in _DATATYPES:
        raise TextFormatError(
            f"{message.at('data_type')} is {datatype[:40]!r}, one of {', '.join(_DATATYPES)} was needed"
        )
    dims = _dims(message, "dims")
    if not dims:
        raise TextFormatError(f"{message.at('dims')} is missing")
    reshape = message.message("reshape")
    reshaped = None
    if reshape is not None:
        reshaped = _dims(reshape, "shape")
        reshape.done()
        if max(dims.count(-1), reshaped.count(-1)) > 1 or dims.count(-1) != reshaped.count(-1):
            raise TextFormatError(f"{message.path}.reshape has sizes of -1 that are not one on both sides, or none")
    layout = message.word("format") or "FORMAT_NONE"
    if layout not in _FORMATS:
        raise TextFormatError(f"{message.at('format')} is {layout[:40]!r}, one of {', '.join(_FORMATS)} was needed")
    label_filename = message.string("label_filename") if output else ""
    if label_filename and not is_name(label_filename):
        raise TextFormatError(f"{message.at('label_filename')} is not the plain name of a file")
    for flag in ("is_shape_tensor", "allow_ragged_batch", "optional", "is_non_linear_format_io"):
        if message.flag(flag):
            raise TextFormatError(f"{message.at(flag)} is not understood by this server")
    message.done()
    return ConfiguredTensor(name, _DATATYPES[datatype], dims, reshaped, layout, label_filename)


def _dims(message: Message, name: str) -> tuple[int, ...]:
    dims = tuple(message.integers(name))
    if len(dims) > _MAX_AXES or any(not (size == -1 or 0 < size < 1 << 40) for size in dims):
        raise TextFormatError(f"{message.at(name)} has sizes that are neither -1 nor from 1 up, or too many of them")
    return dims


def _check_names(tensors: Sequence[ConfiguredTensor], what: str) -> None:
    names = [tensor.name for tensor in tensors]
    for name in names:
        if names.count(name) > 1:
            raise TextFormatError(f"{what} {name!r} comes more than once")


def _instances(message: Message) -> tuple[int | None, list[str]]:
    """How many runs go on at a time, and what was said of where they do."""
    count, passed_over = 0, []
    for group in message.messages("instance_group"):
        count += group.integer("count", 1)
        kind = group.word("kind")
        if kind not in ("", "KIND_AUTO", "KIND_CPU"):
            passed_over.append(f"instance_group.kind {kind[:40]}")
        ignored = group.ignore("name", "gpus", "rate_limiter", "profile", "passive", "host_policy", "secondary_devices")
        passed_over += [f"instance_group.{field}" for field in ignored if field != "name"]
        group.done()
    if not 0 <= count <= _MAX_INSTANCES:
        raise TextFormatError(f"instance_group has {count} instances, up to {_MAX_INSTANCES} were needed")
    return count or None, passed_over
