"""Files that a server reads at its start or while it runs, each with what may be raised when it is broken."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz_models import write_models
from serve.foreign.config import parse_config
from serve.foreign.text_format import TextFormatError
from serve.web.api_keys import BadKeys, read_keys
from skipvit.artifacts import MANIFEST, TRITON_CONFIG, ArtifactError, read_entry


class Files:
    """Reads the inputs of doors that are files, from a folder of its own."""

    def __init__(self, scratch: Path) -> None:
        root = scratch / "models"
        write_models(root)
        self._root = scratch / "read"
        write_models(self._root)
        self._manifest = self._root / "clean" / "1" / MANIFEST
        others = [root / name / "1" / MANIFEST for name in ("shades", "steady", "clean")]
        self.contents = {
            TRITON_CONFIG: [(root / "simple" / TRITON_CONFIG).read_bytes(), _OTHER_CONFIG],
            MANIFEST: [json.dumps(json.loads(path.read_text())).encode() for path in others],
            _KEYS: [_SOME_KEYS],
        }
        self._readers: dict[str, Callable[[bytes], None]] = {
            TRITON_CONFIG: self._read_config,
            MANIFEST: self._read_manifest,
            _KEYS: self._read_keys,
        }

    def read(self, door: str, raw: bytes) -> str:
        """Whether the file was accepted or refused. Anything but a refusal in plain words comes out as it is."""
        try:
            self._readers[door](raw)
        except (ArtifactError, TextFormatError, BadKeys):
            return "refused"
        return "accepted"

    def _read_config(self, raw: bytes) -> None:
        parse_config(raw, "simple")

    def _read_manifest(self, raw: bytes) -> None:
        self._manifest.write_bytes(raw)
        read_entry(self._root, "clean")

    def _read_keys(self, raw: bytes) -> None:
        path = self._root / _KEYS
        path.write_bytes(raw)
        read_keys(path)


_KEYS = "API keys"
_SOME_KEYS = b"# who may ask\nalice:" + b"0a" * 32 + b"\nbob:" + b"f" * 64 + b":infer,metrics # a comment\n\n"
_OTHER_CONFIG = b"""# comment
name: "simple" platform: 'onnxruntime' "_onnx" max_batch_size: 0x10
input { name: "x\\061" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ -1 ] } format: FORMAT_NCHW }
output < name: "y" data_type: TYPE_STRING dims: -1 label_filename: "labels.txt" >
instance_group [ { count: 2 kind: KIND_CPU } ] version_policy: { latest { num_versions: 1 } }
parameters { key: "a" value: { string_value: "b" } };
"""
