"""The counters and histograms of a server, by what they are of; see Metrics for when each is counted."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from serve.ticket import Where

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_TILES = (1, 4, 16, 64, 256, 1024, 4096)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class OfRequests:
    """What becomes of requests and their pictures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.finished = Counter(
            "skipvit_requests", "Requests by outcome", ["model", "version", "route", "outcome"], registry=registry
        )
        self.stages = Histogram(
            "skipvit_stage_seconds",
            "Time in each stage: read and total per request, queue and infer per picture or tile, others per picture",
            ["stage", "model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "skipvit_rejected", "Requests turned away, by error code", ["reason"], registry=registry
        )
        self.cancelled = Counter(
            "skipvit_cancelled",
            "Pictures whose client went away, by the stage that they were in",
            ["where"],
            registry=registry,
        )
        for where in get_args(Where):
            self.cancelled.labels(where)


class OfRuns:
    """What models are given to run on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.batch_size = Histogram(
            "skipvit_batch_size",
            "Pictures or tiles per run of a model",
            ["model"],
            buckets=_SIZES,
            registry=registry,
        )
        self.batches = Counter(
            "skipvit_batches",
            "Runs of a model, by why the batch was closed: full, idle (took what was there), waited",
            ["model", "reason"],
            registry=registry,
        )
        self.images = Counter("skipvit_images", "Pictures or tiles that models ran on", ["model"], registry=registry)
        self.tiles = Histogram(
            "skipvit_tiles", "Tiles per denoised picture", ["model"], buckets=_TILES, registry=registry
        )


class OfChanges:
    """Which models are loaded, and which variants of a group are taken."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.loads = Counter(
            "skipvit_model_loads",
            "Versions loaded while the server runs, by outcome: ok, failed (what was served stays)",
            ["model", "outcome"],
            registry=registry,
        )
        self.group_requests = Counter(
            "skipvit_group_requests",
            "Requests that named a group, by the variant that was taken",
            ["group", "variant"],
            registry=registry,
        )
        self.group_steps = Counter(
            "skipvit_group_transitions",
            "Steps of a group's ladder: down is to a faster variant, up to a more exact one",
            ["group", "direction"],
            registry=registry,
        )
