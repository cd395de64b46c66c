"""Versions of the tiny classifier that can be told by their answers, and servers that load them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.servers import (
    brightness_model,
    in_process,
    png,
    write_model,
)

PNG = {"Content-Type": "image/png"}
EXPLICIT = Settings(decode_threads=2, model_control="explicit")
WATCHING = Settings(decode_threads=2, watch_s=0.01)
LOAD, UNLOAD = "/v2/repository/models/shades/load", "/v2/repository/models/shades/unload"


def write_version(root: Path, version: int, **changes: Any) -> Path:
    """Even versions number their classes from the brightest: an answer tells of which kind it is."""
    graph = changes.pop("graph", None) or brightness_model(darkest_first=version % 2 == 1)
    return write_model(root, version=version, graph=graph, **changes)


async def classify(client: httpx.AsyncClient) -> tuple[str, str]:
    """Version and label of the answer to a white picture; any but an answer fails the test."""
    response = await client.post("/v1/classify?model=shades", content=png(255), headers=PNG)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["model"]["version"], answer["results"][0]["predictions"][0]["label"]


async def text(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


async def served_version(client: httpx.AsyncClient) -> str:
    return (await classify(client))[0]


async def index(client: httpx.AsyncClient) -> dict[tuple[str, str], tuple[str, str]]:
    rows = (await client.post("/v2/repository/index")).json()
    return {(row["name"], row["version"]): (row["state"], row["reason"]) for row in rows}


@asynccontextmanager
async def served(root: Path, settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Repository]]:
    repository = Repository.open(root, settings)
    async with in_process(repository, settings) as client:
        yield client, repository
