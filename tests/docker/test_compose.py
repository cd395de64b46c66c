"""compose.yaml: valid by the Compose specification's own schema, and in agreement with the images and the server."""

import re
import shutil
import subprocess
from typing import Any

import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

from serve.settings import Settings
from tests.docker.compose_model import load, project
from tests.docker.dockerfile import DOCKERFILE, ROOT, command, last, read_stages

STAGES = read_stages(DOCKERFILE.read_text())
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing set": {},
    "own models": {"MODELS": "./models"},
    "all set": {
        "MODELS": "/srv/models",
        "BIND": "0.0.0.0",
        "PORT": "80",
        "MEMORY": "512m",
        "CPUS": "1.5",
        "GRACE": "90s",
        "DEMO_MODELS": "digits_skipat photos_skipat",
    },
}
SERVERS = ("serve", "serve-gpu")


def problems(document: dict[str, Any]) -> list[str]:
    schema = get_builtin_schema("vendor.compose-spec")
    return [f"{error.json_path}: {error.message}" for error in validator_for(schema)(schema).iter_errors(document)]


@pytest.fixture(params=ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    given: dict[str, str] = request.param
    return given


@pytest.mark.parametrize("file", ["compose.yaml", "docker/compose.yaml"])
def test_files_are_valid(file: str, environment: dict[str, str]) -> None:
    assert problems(load(ROOT / file, environment)) == []


def test_schema_refuses_what_compose_does() -> None:
    assert problems({"services": {"serve": {"image": "a", "port": ["80:80"]}}})


def test_whole_project_is_valid(environment: dict[str, str]) -> None:
    assert problems(project(environment)) == []


def test_docker_compose_agrees() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run([docker, "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_first_up_serves_the_models_in_the_image() -> None:
    services = project({})["services"]
    for name in SERVERS:
        assert services[name]["build"]["target"] == name
        assert services[name]["command"] == command(last(STAGES, name, "CMD")) == ["/models"]
    assert [name for name, service in services.items() if "profiles" not in service] == ["serve"]


def test_own_models_are_mounted_and_served_without_building_the_demo() -> None:
    services = project({"MODELS": "./models"})["services"]
    for name in SERVERS:
        service = services[name]
        assert service["build"]["target"] == f"{name}-bare"
        assert service["volumes"] == ["./models:/mnt/models:ro"]
        assert service["command"] == command(last(STAGES, f"{name}-bare", "CMD")) == ["/mnt/models"]
        assert service["image"] != project({})["services"][name]["image"]


def test_builds_name_stages_and_their_arguments(environment: dict[str, str]) -> None:
    arguments = {each.value.partition("=")[0] for stage in STAGES.values() for each in stage.all("ARG")}
    for name in SERVERS:
        build = project(environment)["services"][name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
        assert build["target"] in STAGES
        assert set(build["args"]) <= arguments


def test_no_image_of_ours_is_looked_for_in_a_registry() -> None:
    services = project({})["services"].values()
    assert [service["pull_policy"] for service in services if "build" in service] == ["build"] * len(SERVERS)


def test_what_is_mounted_is_there() -> None:
    everything = project({})
    for service in everything["services"].values():
        for source, _, _ in (volume.partition(":") for volume in service.get("volumes", [])):
            assert (ROOT / source).exists() if source.startswith(".") else source in everything["volumes"]


def test_every_service_is_locked_down_and_near() -> None:
    for service in project({})["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_variables_reach_the_service() -> None:
    serve = project(ENVIRONMENTS["all set"])["services"]["serve"]
    assert serve["ports"] == ["0.0.0.0:80:8000"]
    assert (serve["mem_limit"], serve["cpus"], serve["stop_grace_period"]) == ("512m", "1.5", "90s")


def test_server_is_stopped_after_it_drained_and_listens_where_the_port_leads() -> None:
    for name in SERVERS:
        service = project({})["services"][name]
        settings = Settings(**{key.removeprefix("SKIPVIT_").lower(): v for key, v in service["environment"].items()})
        assert float(service["stop_grace_period"].removesuffix("s")) >= settings.lame_duck_s + settings.drain_s + 5
        assert service["ports"][0].endswith(f":{settings.port}")
        assert last(STAGES, name, "EXPOSE").value == str(settings.port)
        assert settings.host == "0.0.0.0"


def test_names_of_settings_are_the_servers() -> None:
    known = {f"SKIPVIT_{name.upper()}" for name in Settings.model_fields} | {"SKIPVIT_CACHE"}
    texts = [path.read_text() for path in (DOCKERFILE, ROOT / "docker" / "compose.yaml", ROOT / "docker" / "README.md")]
    named = {name for text in texts for name in re.findall(r"SKIPVIT_[A-Z_]+[A-Z]", text)}
    assert named
    assert named <= known


def test_services_have_a_health_check() -> None:
    for name in SERVERS:
        assert "healthcheck" not in project({})["services"][name]  # which would take the place of the image's
        assert last(STAGES, name, "HEALTHCHECK")
