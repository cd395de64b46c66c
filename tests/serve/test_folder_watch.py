"""A server that looks into its folder by itself."""

import asyncio
import shutil
from pathlib import Path

import pytest

from skipvit.artifacts import MANIFEST
from tests.serve.servers import (
    until,
    write_model,
)
from tests.serve.swapping import (
    WATCHING,
    classify,
    served,
    write_version,
)


def test_the_folder_is_watched(tmp_path: Path) -> None:
    """A new version, the same one replaced, a bad one, an unfinished one, a new model, and all of them removed."""
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, WATCHING) as (client, repository):
            write_version(tmp_path, 2)
            await until(lambda: repository.models["shades"].version == "2")
            assert await classify(client) == ("2", "0")
            second = repository.models["shades"]
            (tmp_path / "shades" / "2" / MANIFEST).touch()
            await until(lambda: repository.models["shades"] is not second)
            (write_version(tmp_path, 3) / "model.onnx").write_bytes(b"x")
            await until(lambda: ("shades", 3) in repository.failures)
            (tmp_path / "shades" / "4").mkdir()
            assert await classify(client) == ("2", "0")
            write_model(tmp_path, "another")
            await until(lambda: "another" in repository.models)
            shutil.rmtree(tmp_path / "shades")
            await until(lambda: "shades" not in repository.models)
            await until(lambda: not repository.failures)
            shutil.rmtree(tmp_path / "another")
            write_version(tmp_path, 5)
            await until(lambda: list(repository.models) == ["shades"])
            assert await classify(client) == ("5", "9")

    asyncio.run(main())


def test_the_servers_last_model_stays_when_its_files_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, WATCHING) as (client, _):
            shutil.rmtree(tmp_path / "shades" / "1")
            (tmp_path / "other" / "1").mkdir(parents=True)  # the folder is not empty: it was not unmounted
            await until(lambda: "it is the server's last and stays" in caplog.text)
            shutil.rmtree(tmp_path)
            await until(lambda: "cannot be looked into, all models stay" in caplog.text)
            assert await classify(client) == ("1", "9")

    asyncio.run(main())
