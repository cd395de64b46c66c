"""Loads and unloads on their way from a front to the engine's process, and what the fronts are offered after them."""

import asyncio
import shutil
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from serve.errors import EngineFailed, NotReady, Overloaded, RequestError
from serve.fronts.control import NUMBER
from serve.fronts.desks import Desks
from serve.fronts.orders import RemoteControl, carry_out
from serve.fronts.relay import Relay
from serve.fronts.ring import Ring
from serve.fronts.wire import ADOPTED, SETUP, Table, read_document
from serve.models.index import IndexRow
from serve.models.loading import LoadFailed
from serve.models.repository import Failure, Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import ArtifactError
from tests.serve.servers import CLASSES, until, write_model


class Scripted:
    """Does what a ModelControl does, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.loaded: list[tuple[str, str | None]] = []

    async def load(self, name: str, override: str | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.loaded.append((name, override))

    async def unload(self, name: str) -> bool:
        return name == "there"

    async def index(self) -> list[IndexRow]:
        return [IndexRow("shades", "1", "READY", "")]


def through_the_wire(control: Scripted, *, everywhere: bool = True) -> RemoteControl:
    async def all_have_it() -> bool:
        return everywhere

    async def ask(order: bytes) -> bytes:
        return await carry_out(control, order, all_have_it)

    return RemoteControl(ask)


def test_orders_and_their_outcomes() -> None:
    async def main() -> None:
        control = Scripted()
        remote = through_the_wire(control)
        await remote.load("shades")
        await remote.load("simple", '{"max_batch_size": 4}')
        assert control.loaded == [("shades", None), ("simple", '{"max_batch_size": 4}')]
        assert (await remote.unload("there"), await remote.unload("elsewhere")) == (True, False)
        assert await remote.index() == await control.index()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (LoadFailed("it is broken"), LoadFailed, "it is broken"),
        (Overloaded("too many", 3), Overloaded, "too many"),
        (ZeroDivisionError("ours"), EngineFailed, "the server failed"),
    ],
)
def test_errors_come_back_as_they_were(error: Exception, kind: type[Exception], said: str) -> None:
    async def main() -> None:
        with pytest.raises(kind, match=said) as caught:
            await through_the_wire(Scripted(error)).load("shades")
        if isinstance(error, RequestError):
            assert cast(RequestError, caught.value).headers == error.headers

    asyncio.run(main())


def test_a_load_that_a_front_has_not_taken_is_not_called_done() -> None:
    with pytest.raises(NotReady, match="not all processes"):
        asyncio.run(through_the_wire(Scripted(), everywhere=False).load("shades"))


def test_answers_find_whoever_asked() -> None:
    relay, given = Relay(), cast(list[Any], [])
    keys = [relay.key(lambda answer, who=who: given.append((who, answer))) for who in range(3)]  # type: ignore[misc]
    relay.answer(keys[1] + b"one")
    relay.answer(keys[1] + b"again")
    relay.answer(NUMBER.pack(77) + b"nobody's")
    relay.give_up(b"lost")
    assert given == [(1, b"one"), (0, b"lost"), (2, b"lost")]


def model_of(root: Path) -> ServedModel:
    [model] = Repository.open(root, Settings()).served
    return model


def test_models_stay_until_no_front_uses_the_offer_that_they_were_in(tmp_path: Path) -> None:
    write_model(tmp_path)
    old, new = model_of(tmp_path), model_of(tmp_path)

    async def main() -> None:
        invited: list[int] = []
        idle: list[ServedModel] = []
        desks = Desks([old], {}, invited.append)
        desks.warm()
        first, second = Front(desks, 5), Front(desks, 5)
        await first.adopt()
        old.when_idle(lambda: idle.append(old))
        await second.refuse()
        await until(lambda: desks.open == 1)
        assert await desks.everywhere(30)
        assert desks.change([new], {("shades", 2): Failure("it is broken", ())})
        assert not desks.change([new], {("shades", 2): Failure("it is broken", ())})
        assert invited == [5]
        assert not await desks.everywhere(0.01), "it has not even been connected"
        third = Front(desks, 5)
        waiting = asyncio.create_task(desks.everywhere(30))
        table = await third.adopt()
        assert [failed.reason for failed in table.failed] == ["it is broken"]
        assert await waiting
        assert idle == []
        await first.hang_up()
        await until(lambda: idle == [old])
        desks.invite_those_behind()
        assert invited == [5]
        await third.hang_up()
        await until(lambda: not desks.open)
        desks.invite_those_behind()
        assert invited == [5, 5], "it may be alive"

    asyncio.run(main())
    for model in (old, new):
        assert model.close()


def test_a_front_hangs_that_does_not_change_over_to_warm_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path)
    model = model_of(tmp_path)

    async def main() -> None:
        desks = Desks([model], {}, lambda _front: None)
        front, starting = Front(desks, 5), Front(desks, 6)
        monkeypatch.setattr("serve.fronts.desks._HANGS_AFTER_S", 0.0)
        assert desks.hung() == [], "the models are not warm"
        desks.warm()
        assert desks.hung() == [5, 6]
        assert "front 5 has not taken what is served" in caplog.text
        monkeypatch.setattr("serve.fronts.desks._HANGS_AFTER_S", 1e9)
        assert desks.hung() == [], "they have their time"
        monkeypatch.setattr("serve.fronts.desks._HANGS_AFTER_S", 0.0)
        await front.adopt()
        await until(lambda: desks.hung() == [6])
        waiting = asyncio.create_task(desks.everywhere(30))
        await starting.refuse()  # as it is when it is ended
        await until(lambda: desks.hung() == [])
        assert await waiting, "who orders a load is not kept waiting for it"
        await front.hang_up()
        await until(lambda: not desks.open)

    asyncio.run(main())
    assert model.close()


class Front:
    """A front's end of a connection, by hand."""

    def __init__(self, desks: Desks, number: int) -> None:
        self._ours, theirs = socket.socketpair()
        desks.add(number, theirs)

    async def adopt(self) -> Table:
        return await asyncio.to_thread(self._adopt)

    def _adopt(self) -> Table:
        table = Table.model_validate_json(read_document(self._ours))
        ring = Ring.create(2, table.models[0].slot_bytes)
        socket.send_fds(self._ours, [SETUP.pack(ring.count, ring.slot_bytes)], [ring.fd])
        ring.close()
        read_document(self._ours)
        self._ours.sendall(ADOPTED)
        return table

    async def refuse(self) -> None:
        """Hangs up in the middle of it."""
        await asyncio.to_thread(read_document, self._ours)
        self._ours.close()

    async def hang_up(self) -> None:
        self._ours.close()


def test_a_repository_opens_again_with_what_can_be_had(tmp_path: Path) -> None:
    for version in (1, 2):
        write_model(tmp_path, version=version)
    write_model(tmp_path, name="other")
    (tmp_path / "shades" / "2" / "model.onnx").write_bytes(b"no graph")
    keys = [("shades", 1), ("shades", 2), ("shades", 3)]
    repository = Repository.reopen(tmp_path, Settings(), keys)
    assert [(model.name, model.version, model.classes) for model in repository.served] == [("shades", "1", CLASSES)]
    assert set(repository.failures) == {("shades", 2), ("shades", 3)}
    repository.close()
    shutil.rmtree(tmp_path / "shades" / "2")
    anew = Repository.reopen(tmp_path, Settings(), keys[1:])
    assert sorted((model.name, model.version) for model in anew.served) == [("other", "1"), ("shades", "1")]
    anew.close()
    shutil.rmtree(tmp_path / "shades")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(ArtifactError):
        Repository.reopen(tmp_path, Settings(), keys)
    assert Repository.reopen(tmp_path, Settings(), []).served == [], "all were unloaded"


def test_time_in_which_the_machine_stood_still_is_none_that_a_front_hangs(tmp_path: Path) -> None:
    """As when it is moved to another host in the middle of a swap; the clock has gone on meanwhile."""
    write_model(tmp_path)
    model = model_of(tmp_path)
    now = 0.0

    async def main() -> None:
        nonlocal now
        desks = Desks([model], {}, lambda _front: None, lambda: now)
        desks.warm()
        front = Front(desks, 5)
        for _ in range(10):
            now += 60.0
            assert desks.hung() == []
        looks = 0
        while desks.hung() == []:
            now += 0.25
            looks += 1
        assert looks == (20 - 10) * 4, "of each time that it stood still a second is counted"
        await front.refuse()
        await until(lambda: not desks.open)

    asyncio.run(main())
    assert model.close()
