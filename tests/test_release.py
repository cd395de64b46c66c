"""What a release says of itself agrees with itself."""

import re
from pathlib import Path

import skipvit

ROOT = Path(__file__).resolve().parents[1]


def test_changelog_is_headed_by_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == skipvit.__version__


def test_every_path_that_readme_names_exists() -> None:
    code = re.findall(
        r"(?:skipvit|train|export|serve|benchmarks|tests)/[\w./]+\.(?:py|md|toml)", (ROOT / "README.md").read_text()
    )
    assert code
    assert [path for path in code if not (ROOT / path).exists()] == []


def test_every_console_command_answers_help(capsys: object) -> None:
    import importlib
    import tomllib

    import pytest

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {
        "skipvit-train",
        "skipvit-evaluate",
        "skipvit-analyze",
        "skipvit-convert",
        "skipvit-to-onnx",
        "skipvit-to-trt",
        "skipvit-serve",
        "skipvit-client",
        "skipvit-bench",
    }
    for target in scripts.values():
        module, _, function = target.partition(":")
        with pytest.raises(SystemExit, match="0"):
            getattr(importlib.import_module(module), function)(["--help"])
