"""The server on Ray Serve, as far as it can be told without Ray; tests/serve/test_ray_replicas.py starts it."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve import ray_app
from serve.ray_app import RayArguments, build, main, settings_of

ROOT = Path(__file__).resolve().parents[2]


def test_a_replica_has_the_threads_that_ray_gives_it() -> None:
    two = settings_of(RayArguments(models_dir=Path("m"), cpus_per_replica=2))
    assert (two.decoders, two.tile_threads, two.access_log) == (2, 2, False)
    half = settings_of(RayArguments(models_dir=Path("m"), cpus_per_replica=0.5))
    assert half.decoders == 1
    asked = {"decode_threads": 3, "tile_threads": 5, "access_log": True}
    given = settings_of(RayArguments(models_dir=Path("m"), settings=asked))
    assert (given.decoders, given.tile_threads, given.access_log) == (3, 5, True)
    gpu = settings_of(RayArguments(models_dir=Path("m"), gpus_per_replica=0.5))
    assert gpu.tile_threads == 0, "the server knows how many a GPU needs"


def test_arguments_come_as_text_from_rays_command_line() -> None:
    """`serve run serve.ray_app:build models_dir=/m max_replicas=3 settings='{"max_batch": 8}'`"""
    texts = {"models_dir": "/m", "max_replicas": "3", "gpus_per_replica": "0.5", "settings": '{"max_batch": 8}'}
    arguments = RayArguments.model_validate(texts)
    assert (arguments.max_replicas, arguments.gpus_per_replica) == (3, 0.5)
    assert settings_of(arguments).max_batch == 8
    with pytest.raises(ValidationError, match="max_replica\n"):
        RayArguments.model_validate({"models_dir": "/m", "max_replica": "3"})


def test_a_file_of_settings_is_read_once_for_all_replicas(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("fronts = 2\nmax_batch = 8\nmax_files = 3\n[models.shades]\nmax_batch = 2\n")
    settings = settings_of(RayArguments(models_dir=Path("m"), config=file, settings={"max_files": 4}))
    assert (settings.max_batch, settings.max_files, settings.of("shades").max_batch) == (8, 4, 2)
    assert settings.fronts == 0, "Ray's proxies stand in front"


def test_the_file_of_serve_deploy_fits() -> None:
    deployed = yaml.safe_load((ROOT / "docker" / "ray" / "serve.yaml").read_text())
    (application,) = deployed["applications"]
    module, _, function = application["import_path"].partition(":")
    assert (module, getattr(ray_app, function)) == (ray_app.__name__, build)
    arguments = RayArguments.model_validate(application["args"])
    assert settings_of(arguments).max_in_flight >= arguments.target_requests


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["MODELS", "--max-replicas", "none"], "max_replicas is 'none'"),
        (["MODELS", "--min-replicas", "3", "--max-replicas", "2"], "min_replicas 3 is over max_replicas 2"),
        (["MODELS", "--set", "max_batch=-1"], "max_batch is '-1'"),
        (["MODELS", "--set", "tls_cert=EMPTY", "--set", "tls_client_ca=EMPTY"], "ask no client for a certificate"),
        (["MODELS", "--config", "EMPTY/none.toml"], "the configuration cannot be read"),
        (["EMPTY"], "holds no model"),
        (["MODELS"], "pip install 'skipvit[ray,serve]'"),
    ],
)
def test_what_is_wrong_is_said_before_ray_starts(
    arguments: list[str], said: str, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(builtins, "__import__", without_ray(builtins.__import__))
    places = {"MODELS": str(models_dir), "EMPTY": str(tmp_path)}
    assert main([places.get(word, word.replace("EMPTY", str(tmp_path))) for word in arguments]) == 1
    assert said in capsys.readouterr().err


def without_ray(imported: Callable[..., Any]) -> Callable[..., Any]:
    def importer(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return imported(name, *rest, **named)

    return importer


def test_an_unknown_setting_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["models", "--set", "max_bath=8"])
    assert "max_bath=8" in capsys.readouterr().err
