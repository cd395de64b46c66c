"""A repository on a disk that does not answer: whoever need not wait for it does not."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.models import background, control
from serve.models.folder import Folder
from serve.settings import Settings
from tests.serve.servers import until, write_model
from tests.serve.swapping import EXPLICIT, LOAD, index, served, served_version, write_version

BOTH_WAYS = Settings(decode_threads=2, model_control="explicit", watch_s=0.01)


class Disk:
    """Looks into the repository wait here while it is dead."""

    def __init__(self) -> None:
        self.alive = threading.Event()
        self.alive.set()
        self.spared = threading.Event()  # a look gets through at once
        self.hung = 0

    really = staticmethod(control.look_into)

    def look_into(self, root: Path) -> Folder:
        if self.spared.is_set():
            self.spared.clear()
        elif not self.alive.is_set():
            self.hung += 1
            assert self.alive.wait(60)
        return self.really(root)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(control, "look_into", disk.look_into)
    yield disk
    disk.alive.set()


def test_loads_do_not_wait_for_the_watch(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what came of its look is not acted on: of what was loaded since it may know nothing."""
    monkeypatch.setattr(background, "PATIENCE_S", 0.05)
    write_version(tmp_path, 1)

    async def main() -> None:
        async with asyncio.timeout(50), served(tmp_path, BOTH_WAYS) as (client, repository):
            disk.alive.clear()
            await until(lambda: disk.hung == 1)
            write_version(tmp_path, 2)
            disk.spared.set()
            assert (await client.post(LOAD)).status_code == 200
            assert disk.hung == 1
            assert await served_version(client) == "2"
            assert "a look into the model repository takes more than" in caplog.text
            write_model(tmp_path, "other")
            disk.alive.set()
            await until(lambda: "other" in repository.models)  # it is looked into again
            assert await served_version(client) == "2"

    asyncio.run(main())


def test_the_index_says_what_is_served(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes one thread, which nothing else needs, however many ask."""
    write_version(tmp_path, 1)

    async def main() -> None:
        async with asyncio.timeout(50), served(tmp_path, EXPLICIT) as (client, _):
            write_version(tmp_path, 2)
            disk.alive.clear()
            with monkeypatch.context() as hasty:
                hasty.setattr(control, "_INDEX_WITHIN_S", 0.05)
                for rows in await asyncio.gather(*(index(client) for _ in range(40))):
                    assert rows == {("shades", "1"): ("READY", "")}
            assert await asyncio.to_thread(lambda: "free") == "free"
            assert disk.hung == 1
            disk.alive.set()
            monkeypatch.setattr(control, "_INDEX_WITHIN_S", 40.0)
            assert ("shades", "2") in await index(client)

    asyncio.run(main())
