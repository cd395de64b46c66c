"""The house rules of the import graph and of file names, checked on the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("skipvit", "train", "trt_plugins", "export", "serve", "benchmarks")
# Data flows one way: what each room may import of the others.
MAY_IMPORT = {
    "skipvit": {"skipvit"},
    "train": {"skipvit", "train"},
    "trt_plugins": {"skipvit", "trt_plugins"},
    "export": {"skipvit", "trt_plugins", "export"},
    "serve": {"skipvit", "trt_plugins", "serve"},
    "benchmarks": set(ROOMS),
}
# A file in a room shadows a module of the same name when the room's program runs as a script.
DEPENDENCIES = {
    "av",
    "cuda",
    "fastapi",
    "httpx",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "orjson",
    "PIL",
    "prometheus_client",
    "psutil",
    "pycuda",
    "pydantic",
    "pydantic_settings",
    "pytest",
    "safetensors",
    "scipy",
    "skimage",
    "sklearn",
    "starlette",
    "tensorboard",
    "tensorrt",
    "tensorrt_rtx",
    "timm",
    "torch",
    "torchvision",
    "tqdm",
    "uvicorn",
    "uvloop",
}


def imports_of(source: str) -> set[str]:
    """Top-level names that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a room can move"
            names.add((node.module or "").split(".")[0])
    return names


def forbidden_imports(room: str, source: str) -> set[str]:
    return (imports_of(source) & set(ROOMS)) - MAY_IMPORT[room]


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downstream_only(room: str) -> None:
    wrong = {str(p.relative_to(ROOT)): bad for p in sources(room) if (bad := forbidden_imports(room, p.read_text()))}
    assert not wrong


def test_rule_catches_serve_importing_train() -> None:
    assert forbidden_imports("serve", "import fastapi\nfrom train.loop import fit\n") == {"train"}


def test_serve_fails_the_rule_when_a_real_file_imports_train(tmp_path: Path) -> None:
    source = (ROOT / "serve" / "__init__.py").read_text() + "\nimport train\n"
    assert forbidden_imports("serve", source) == {"train"}


@pytest.mark.parametrize("room", ROOMS)
def test_file_names_shadow_nothing(room: str) -> None:
    taken = set(sys.stdlib_module_names) | DEPENDENCIES | set(ROOMS)
    top_level = [p.stem for p in (ROOT / room).glob("*.py")] + [p.name for p in (ROOT / room).iterdir() if p.is_dir()]
    # skipvit/ holds no program, so nothing of it is ever first on sys.path.
    wrong = set() if room == "skipvit" else {name for name in top_level if name in taken}
    assert not wrong


def test_no_init_under_tests_and_no_utils() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [p for room in ROOMS for p in sources(room) if p.stem in ("utils", "helpers", "common", "misc")]


def test_timm_is_imported_behind_its_guard_only() -> None:
    users = {str(p.relative_to(ROOT)) for room in ROOMS for p in sources(room) if "timm" in imports_of(p.read_text())}
    assert users == set(), "write: from skipvit.models.timm_guard import timm"


LIGHT = (
    "skipvit",
    "skipvit.artifacts",
    "skipvit.client",
    "skipvit.clips",
    "skipvit.manifest",
    "skipvit.tiling",
    "skipvit.transforms",
    "serve",
    "serve.app",
    "serve.cli",
    "serve.engines.tensorrt_engine",
    "trt_plugins.session",
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_neither_torch_nor_timm(module: str) -> None:
    code = f"import sys, {module}; sys.exit(sum(name in sys.modules for name in ('torch', 'timm', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
