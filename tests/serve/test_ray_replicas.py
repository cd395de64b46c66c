"""Replicas on Ray Serve behind one address: the clients' tests, and no request lost while they come and go.

Needs Ray, and a minute: pytest -m ray tests/serve/test_ray_replicas.py
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.ray_app import RayArguments, build
from skipvit.client.http_exchange import HttpExchange, request_bytes
from skipvit.client.load import Measurement, Plan, closed_loop
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import png, write_model
from tests.serve.test_client_served import (
    test_a_picture_comes_back_from_a_denoiser,
    test_arrays_are_classified_as_they_are,
    test_many_pictures_come_back_in_order_and_the_bad_one_alone_fails,
    test_models_are_listed,
    test_the_servers_words_reach_the_caller,
)
from tests.serve.test_oip_client import (
    client,
    test_health_and_metadata,
    test_infer,
    test_pictures_in_and_out,
    test_the_asyncio_client,
)

# Tests of the clients that are run here again, with the fixtures of this file.
AGAIN = (
    client,
    test_a_picture_comes_back_from_a_denoiser,
    test_arrays_are_classified_as_they_are,
    test_health_and_metadata,
    test_infer,
    test_many_pictures_come_back_in_order_and_the_bad_one_alone_fails,
    test_models_are_listed,
    test_pictures_in_and_out,
    test_the_asyncio_client,
    test_the_servers_words_reach_the_caller,
)

WITHIN_S = 120.0
CLIENTS = 12

# Ray's own warnings are none of ours.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ray-models")
    write_model(root)
    write_denoiser(root)
    write_denoiser(root, "inverse", "inverse")
    return root


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Ray Serve on a free port of 127.0.0.1, without an application yet."""
    ray = pytest.importorskip("ray")
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=4)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield port
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def url(port: int, models: Path) -> str:
    """Two replicas behind one address."""
    deploy(models, min_replicas=2, max_replicas=2)
    wait_for(lambda: replicas() == 2)
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def address(url: str) -> str:
    return url.removeprefix("http://")


def deploy(models: Path, **arguments: Any) -> None:
    from ray import serve

    serve.run(build(RayArguments(models_dir=models, **arguments)), name="skipvit")


def replicas() -> int:
    from ray import serve

    states = serve.status().applications["skipvit"].deployments["skipvit"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.2)


class Load:
    """Clients that ask one after the other, in a thread, until they are told to stop."""

    def __init__(self, url: str, clients: int) -> None:
        self.measured = Measurement()
        self._url = httpx.URL(url)
        self._clients = clients
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Measurement] | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        body = httpx.Request("POST", f"{self._url}/v1/classify", content=png(), headers={"Content-Type": "image/png"})
        ask = [request_bytes(body)]
        load = closed_loop(lambda: HttpExchange(self._url, None), ask, self._clients, Plan(600.0), self.measured)
        self._task = self._loop.create_task(load)
        self._loop.run_until_complete(self._task)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()


def test_an_answer_has_one_request_id(url: str) -> None:
    answer = httpx.post(f"{url}/v1/classify", content=png(), headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (200, ["mine"])
    assert answer.json()["id"] == "mine"


def test_no_request_is_lost_from_one_replica_to_two_and_back(url: str, models: Path) -> None:
    scaling = {"target_requests": 4, "upscale_delay_s": 0.5, "downscale_delay_s": 1, "look_back_s": 11}
    deploy(models, min_replicas=1, max_replicas=2, **scaling)
    wait_for(lambda: replicas() == 1)
    with Load(url, CLIENTS) as heavy:
        wait_for(lambda: replicas() == 2)
        seen = heavy.measured.answered
        wait_for(lambda: heavy.measured.answered > seen + 200)
    with Load(url, 1) as light:
        wait_for(lambda: replicas() == 1)
        seen = light.measured.answered
        wait_for(lambda: light.measured.answered > seen + 20)
    for load in (heavy, light):
        assert set(load.measured.outcomes) == {"200"}


def test_no_request_is_lost_when_other_settings_are_deployed(url: str, models: Path) -> None:
    with Load(url, CLIENTS) as load:
        wait_for(lambda: load.measured.answered > 50)
        deploy(models, min_replicas=2, max_replicas=2, settings={"max_batch": 4})
        wait_for(lambda: replicas() == 2)
        seen = load.measured.answered
        wait_for(lambda: load.measured.answered > seen + 50)
    assert set(load.measured.outcomes) == {"200"}
    assert {model["max_batch"] for model in httpx.get(f"{url}/v1/models").json()["models"]} == {4}


def test_what_does_not_fit_is_told_to_come_again(url: str, models: Path) -> None:
    small = {"max_in_flight": 1, "max_files": 1}
    deploy(models, min_replicas=1, max_replicas=1, max_queued=1, settings=small)
    wait_for(lambda: replicas() == 1)
    with Load(url, CLIENTS) as load:
        wait_for(lambda: load.measured.outcomes["200"] > 20 and load.measured.outcomes["429"] > 20)
    assert set(load.measured.outcomes) == {"200", "429"}
