"""The real TensorRT-RTX on a machine without a GPU: plans are refused with a sentence, not with a crash."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REAL = """
import sys
from pathlib import Path
from trt_plugins.flavors import open_tensorrt
from trt_plugins.session import EngineError, open_session

tensorrt = open_tensorrt("tensorrt-rtx")
trt = tensorrt.module
path = Path(sys.argv[1])
if sys.argv[2] == "built":
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network, config = builder.create_network(0), builder.create_builder_config()
    x = network.add_input("x", trt.float32, (-1, 8))
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    network.mark_output(y)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 8), (2, 8), (4, 8))
    config.add_optimization_profile(profile)
    path.write_bytes(bytes(builder.build_serialized_network(network, config)))
else:
    path.write_bytes(b"no engine at all, but long enough to have a header" * 40)
try:
    open_session(path, tensorrt)
except EngineError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [("built", "there is no NVIDIA GPU or no driver here"), ("garbage", "is damaged, or no engine of TensorRT-RTX 1.")],
)
def test_the_real_tensorrt_rtx_without_a_gpu(tmp_path: Path, content: str, sentence: str) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here, which opens engines")
    path = tmp_path / "digits" / "1" / "model.plan"
    path.parent.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(path), content], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert sentence in done.stdout
    assert str(path) in done.stdout
