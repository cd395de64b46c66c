"""A model repository with a tiny classifier and a tiny denoiser, and a real server that serves them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.repository import Repository
from serve.settings import Settings
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import over_socket, write_model


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root)
    write_denoiser(root)
    return root


@pytest.fixture(scope="module")
def url(models_dir: Path) -> Iterator[str]:
    """A real server with the tiny models."""
    settings = Settings(decode_threads=2, tile_threads=2, access_log=False)
    with over_socket(Repository.open(models_dir, settings), settings) as url:
        yield url
