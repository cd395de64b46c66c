"""Versions that are swapped, loaded and unloaded behind fronts: no request fails, whichever process dies meanwhile."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.serve.servers import png, wait_until
from tests.serve.swapping import LOAD, PNG, UNLOAD, write_version
from tests.serve.test_cli import program
from tests.serve.test_fronts import WITHIN_S, children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")

LABELS = {0: "0", 1: "9"}  # of a white picture, by whether the version is odd


def answer(url: str) -> tuple[int, str]:
    """Version and label of the answer to a white picture, by a connection of its own: whichever front gets it."""
    response = httpx.post(f"{url}/v1/classify?model=shades", content=png(255), headers=PNG, timeout=WITHIN_S)
    assert response.status_code == 200, response.text
    told = response.json()
    return int(told["model"]["version"]), told["results"][0]["predictions"][0]["label"]


def everybody_answers(url: str, version: int) -> bool:
    return all(answer(url) == (version, LABELS[version % 2]) for _ in range(6))


def settled(url: str, version: int) -> bool:
    """Whether no process is still starting, as far as a dozen requests can tell; none may have another version."""
    for _ in range(12):
        response = httpx.post(f"{url}/v1/classify", content=png(255), headers=PNG, timeout=WITHIN_S)
        if response.status_code == 503:
            return False
        assert int(response.json()["model"]["version"]) == version, response.text
    return True


def load(url: str) -> httpx.Response:
    return httpx.post(url + LOAD, timeout=WITHIN_S)


def index(url: str) -> dict[str, tuple[str, str]]:
    rows = httpx.post(f"{url}/v2/repository/index", timeout=WITHIN_S).json()
    return {row["version"]: (row["state"], row["reason"]) for row in rows}


class Clients:
    """Threads that keep asking; every answer must be of the version that it names, and every request have one."""

    def __init__(self, url: str, count: int = 3) -> None:
        self.answers: list[tuple[int, str]] = []
        self.failed: list[BaseException] = []
        self._url = url
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        while not self._ending.is_set():
            try:
                self.answers.append(answer(self._url))
            except BaseException as error:
                self.failed.append(error)

    def wait_for(self, version: int) -> None:
        wait_until(lambda: bool(self.failed) or version in {answered for answered, _ in self.answers}, WITHIN_S)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def connections(process: subprocess.Popen[str]) -> int:
    """Unix sockets of the engine's process: two ends of the supervisor's, and one for each offer of each front."""
    [engine] = children(process, "engine")
    return len(engine.net_connections("unix"))


def test_versions_behind_two_fronts(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_version(root, 1)
    flags = (
        "--fronts",
        "2",
        "--decode-threads",
        "2",
        "--model-control",
        "explicit",
        "--watch-s",
        "0.2",
        "--no-access-log",
    )
    with program(root, *flags) as (process, url):
        wait_until(lambda: everybody_answers(url, 1), WITHIN_S)
        before = connections(process)
        no_request_fails_while_versions_are_swapped(root, url)
        wait_until(lambda: connections(process) == before, WITHIN_S)
        a_bad_version_takes_nothings_place(root, url)
        the_next_engine_serves_what_the_last_did(process, url)
        unloading_is_done_everywhere(url)
        a_front_that_dies_in_a_swap_comes_back_with_it(root, process, url)


@pytest.mark.slow  # a front has 20 s before it is said to hang
def test_a_front_that_hangs_is_replaced_by_one_with_the_present_models(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_version(root, 1)
    flags = ("--fronts", "2", "--decode-threads", "2", "--model-control", "explicit", "--no-access-log")
    with program(root, *flags) as (process, url):
        wait_until(lambda: everybody_answers(url, 1), WITHIN_S)
        write_version(root, 2)
        hung, other = children(process, "front")
        hung.suspend()
        with closing(kept_connection(url)) as client:
            assert client.post(LOAD).status_code == 200
            wait_until(lambda: hung not in children(process, "front"), WITHIN_S)
            write_version(root, 3)
            assert client.post(LOAD).status_code == 200
        assert other in children(process, "front")
        wait_until(lambda: len(children(process, "front")) == 2, WITHIN_S)
        wait_until(lambda: all(front.net_connections("tcp") for front in children(process, "front")), WITHIN_S)
        wait_until(lambda: settled(url, 3), WITHIN_S)


def no_request_fails_while_versions_are_swapped(root: Path, url: str) -> None:
    with Clients(url) as clients:
        for version in range(2, 5):
            clients.wait_for(version - 1)
            write_version(root, version)
            assert load(url).status_code == 200
            assert everybody_answers(url, version), "it was answered before all fronts had it"
        clients.wait_for(4)
        write_version(root, 5)  # which is found by itself
        clients.wait_for(5)
    assert not clients.failed
    assert all(label == LABELS[version % 2] for version, label in clients.answers)
    assert {version for version, _ in clients.answers} == {1, 2, 3, 4, 5}


def a_bad_version_takes_nothings_place(root: Path, url: str) -> None:
    wait_until(lambda: everybody_answers(url, 5), WITHIN_S)
    bad = write_version(root.parent / "bad", 6)
    (bad / "model.onnx").write_bytes(b"no graph")
    shutil.move(bad, root / "shades" / "6")  # nobody may look at it before it is bad
    refused = load(url)
    assert refused.status_code == 400
    assert "failed to load 'shades'" in refused.text
    assert everybody_answers(url, 5)
    assert {version: state for version, (state, _) in index(url).items()} == {
        "5": "READY", **dict.fromkeys("12346", "UNAVAILABLE"),
    }  # fmt: skip
    assert "not loaded" not in index(url)["6"][1]

    def told() -> bool:
        failed = httpx.get(f"{url}/v1/models", timeout=WITHIN_S).json()["failed"]
        return [version["version"] for version in failed] == ["6"]

    wait_until(lambda: all(told() for _ in range(6)), WITHIN_S)
    loads = httpx.get(f"{url}/metrics", timeout=WITHIN_S).text
    assert 'skipvit_model_loads_total{model="shades",outcome="failed"}' in loads


def the_next_engine_serves_what_the_last_did(process: subprocess.Popen[str], url: str) -> None:
    """And not what lies there, of which the highest version is broken."""
    [engine] = children(process, "engine")
    engine.kill()

    wait_until(lambda: engine not in children(process, "engine") and settled(url, 5), WITHIN_S)


def unloading_is_done_everywhere(url: str) -> None:
    unloaded = httpx.post(url + UNLOAD, timeout=WITHIN_S)
    assert unloaded.status_code == 200, unloaded.text
    for _ in range(6):
        assert httpx.get(f"{url}/v2/models/shades", timeout=WITHIN_S).status_code == 404
        assert httpx.get(f"{url}/readyz", timeout=WITHIN_S).status_code == 200
    again = httpx.post(url + UNLOAD, timeout=WITHIN_S)
    assert (again.status_code, "failed to unload 'shades'" in again.text) == (404, True)


def a_front_that_dies_in_a_swap_comes_back_with_it(root: Path, process: subprocess.Popen[str], url: str) -> None:
    """It stands still while the other one has changed over already, and is killed; who ordered that has an answer."""
    write_version(root, 8)
    stopped, other = children(process, "front")
    stopped.suspend()
    with (
        closing(kept_connection(url)) as client,
        closing(kept_connection(url)) as asking,
        ThreadPoolExecutor(1) as thread,
    ):
        loading = thread.submit(lambda: client.post(LOAD))
        wait_until(lambda: asking.get("/v2/models/shades").status_code == 200, WITHIN_S)
        assert not loading.done()
        stopped.kill()
        assert loading.result(WITHIN_S).status_code == 200
    wait_until(lambda: len(children(process, "front")) == 2 and other in children(process, "front"), WITHIN_S)
    wait_until(lambda: all(front.net_connections("tcp") for front in children(process, "front")), WITHIN_S)
    wait_until(lambda: settled(url, 8), WITHIN_S)


def kept_connection(url: str) -> httpx.Client:
    """A client of one connection, to the front that answers."""
    while True:
        client = httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1), timeout=2.0)
        try:
            client.get("/livez")
        except httpx.TimeoutException:  # of the one that stands still
            client.close()
        else:
            client.timeout = httpx.Timeout(WITHIN_S)
            return client
