"""A client of skipvit-serve, for programs that have pictures and no model: needs the extra ``client``.

    from skipvit.client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify("digit.png").best)
        client.denoise("noisy.png").image().save("clean.png")

``AsyncClient`` does the same under asyncio. Every error is a ``ClientError`` with a code, a message and a hint.
"""

from skipvit.client.answers import Classification, Denoised, DenoisedVideo, ModelInfo, ModelVersion, Prediction
from skipvit.client.asynchronous import AsyncClient
from skipvit.client.blocking import Client
from skipvit.client.errors import (
    BadInput,
    BrokenAnswer,
    ClientError,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    Refused,
    ServerError,
    ServerFailed,
    Unreachable,
)
from skipvit.client.pictures import PictureLike
from skipvit.client.retrying import Retries

__all__ = [
    "AsyncClient",
    "BadInput",
    "BrokenAnswer",
    "Classification",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Denoised",
    "DenoisedVideo",
    "ModelInfo",
    "ModelVersion",
    "NotReady",
    "Overloaded",
    "PictureLike",
    "Prediction",
    "Refused",
    "Retries",
    "ServerError",
    "ServerFailed",
    "Unreachable",
]
