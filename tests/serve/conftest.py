"""Model repositories of tiny models, real servers that serve them, a stub of one, and a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from serve.engines import choice as engine_choice
from serve.engines import tensorrt_engine
from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.browser import chromium
from tests.serve.denoiser_stub import StubServer, stub_site
from tests.serve.denoisers import write_denoiser
from tests.serve.fake_machine import Machine
from tests.serve.grouped import write_variants
from tests.serve.servers import over_socket, write_model
from tests.serve.video_denoisers import write_video_denoiser
from trt_plugins import engine_plan

# httpx gives up when nothing comes for five seconds, which a server on a busy machine may take.
DEFAULT_TIMEOUT_CONFIG.connect = DEFAULT_TIMEOUT_CONFIG.read = DEFAULT_TIMEOUT_CONFIG.write = 60.0


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root)
    write_denoiser(root)
    return root


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models for groups."""
    root = tmp_path_factory.mktemp("variants")
    write_variants(root)
    return root


@pytest.fixture(scope="session")
def video_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Video denoisers of every kind, and a classifier that comes first by name."""
    root = tmp_path_factory.mktemp("video-models")
    write_model(root)
    write_video_denoiser(root, "steady", "identity")
    write_video_denoiser(root, "the-map", "map")
    write_video_denoiser(root, "the-places", "places")
    return root


@pytest.fixture(scope="module")
def url(models_dir: Path) -> Iterator[str]:
    """A real server with the tiny models."""
    settings = Settings(decode_threads=2, tile_threads=2, access_log=False)
    with over_socket(Repository.open(models_dir, settings), settings) as url:
        yield url


@pytest.fixture(scope="module")
def video_url(video_models: Path) -> Iterator[str]:
    """A real server with the video denoisers."""
    settings = Settings(decode_threads=1, tile_threads=2, access_log=False)
    with over_socket(Repository.open(video_models, settings), settings) as url:
        yield url


@pytest.fixture(scope="module")
def stub() -> Iterator[tuple[str, StubServer]]:
    """The page, before a server whose denoisers can be told to be slow."""
    with stub_site() as stub:
        yield stub


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A fake GPU and a fake TensorRT, where the server looks for real ones."""
    made = Machine()
    monkeypatch.setattr(engine_choice, "find_gpu", made.find_gpu)
    monkeypatch.setattr(engine_choice, "open_tensorrt", made.open_tensorrt)
    monkeypatch.setattr(tensorrt_engine, "open_session", made.open_session)
    monkeypatch.setattr(engine_plan, "register", lambda tensorrt: ())
    return made
