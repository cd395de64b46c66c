"""Metrics of several processes as those of one server."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

# What is not a sum. A model is ready when it is so everywhere, and the server as old as its oldest process.
_SMALLEST = ("skipvit_model_ready", "process_start_time_seconds")
_LARGEST = ("process_max_fds", "skipvit_group_step")
_SAME = "skipvit_gpu_"  # all processes see the same GPUs, and the one that is asked has looked last
_COUNTED = ("counter", "histogram", "summary")

Key = tuple[str, tuple[tuple[str, str], ...]]


def merged(texts: Sequence[bytes], *, counts_only: bool = False) -> bytes:
    """One exposition of several: sums, but for what is no quantity; ``counts_only`` leaves out gauges.

    That is what a process leaves behind: what it has counted has happened, and what it held is gone.
    """
    families: dict[str, Metric] = {}
    samples: dict[str, dict[Key, float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            if counts_only and (family.type not in _COUNTED or family.name.endswith("_created")):
                continue
            families.setdefault(family.name, family)
            _add(samples.setdefault(family.name, {}), family)
    return generate_latest(SimpleNamespace(collect=lambda: _families(families, samples)))


def _add(into: dict[Key, float], family: Metric) -> None:
    for sample in family.samples:
        key = sample.name, tuple(sample.labels.items())
        before = into.get(key)
        if before is None:
            into[key] = sample.value
        elif sample.name in _SMALLEST or sample.name.endswith("_created"):
            into[key] = min(before, sample.value)
        elif sample.name.startswith(_SAME):
            continue
        elif sample.name in _LARGEST or sample.name.endswith("_info"):
            into[key] = max(before, sample.value)
        else:
            into[key] = before + sample.value


def _families(families: dict[str, Metric], samples: dict[str, dict[Key, float]]) -> Iterator[Metric]:
    for name, family in families.items():
        whole = Metric(name, family.documentation, family.type)
        for (sample, labels), value in samples[name].items():
            whole.add_sample(sample, dict(labels), value)
        yield whole
