"""Every operation of a server's OpenAPI document, asked at length: whether it does what the document says, and no more.

Requests follow from the seed alone; names of real models, loads and unloads are among them. Every request is sent, and
those whose answers the document does not describe are written down with the command that sends them again.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

PACKAGES = ("schemathesis", "hypothesis", "fastapi", "uvicorn", "onnxruntime", "pydantic")

_MODELS = ("shades", "clean", "simple", None)
_KINDS = {"ServerError": "server_errors", "UndefinedStatusCode": "undocumented_statuses"}
_UNANSWERED, _OTHERS = "unanswered", "other_failures"
_MOST_KEPT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--examples", type=whole(1), default=250, help="requests of each operation (default: 250)")
    add("--seed", type=int, default=0)
    add("--operation", metavar="PATH", help="only those of this path, such as /v1/classify")
    add("--failures", type=Path, default=Path("runs/openapi"), metavar="FOLDER",
        help="where requests that were not answered as described are written (default: runs/openapi)")  # fmt: skip


@dataclass(slots=True)
class _Tally:
    cases: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def fail(self, kinds: Iterable[str], said: str) -> None:
        """Counts a case under each of its kinds once."""
        self.failures.update(set(kinds))
        if len(self.said) < _MOST_KEPT:
            self.said.append(said)


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Returns a row for each operation and kind of requests."""
    from tempfile import TemporaryDirectory

    from benchmarks.fuzz_models import write_models
    from benchmarks.openapi_cases import OPERATIONS, api_of
    from benchmarks.servers import free_ports, server

    found = [each for each in OPERATIONS if arguments.operation in (None, each[1])]
    if not found:
        paths = ", ".join(dict.fromkeys(path for _, path, _ in OPERATIONS))
        raise RuntimeError(f"there is no operation {arguments.operation!r}; there are: {paths}")
    with TemporaryDirectory() as scratch:
        models, [port] = Path(scratch) / "models", free_ports(1)
        write_models(models)
        ours = ["-m", "serve", str(models), "--port", str(port), "--model-control", "explicit", "--engine", "onnx-cpu"]
        with server([sys.executable, *ours, "--decode-threads", "1", "--tile-threads", "1"], port):
            api = api_of(f"http://127.0.0.1:{port}")
            return _rows(api, found, arguments)


def _rows(
    api: Any, operations: Sequence[tuple[str, str, Any]], arguments: argparse.Namespace
) -> list[dict[str, object]]:
    from tqdm import tqdm

    rows: list[dict[str, object]] = []
    with tqdm(total=len(operations) * arguments.examples, desc="openapi", unit="request", leave=False) as bar:
        for number, (method, path, mode) in enumerate(operations, 1):
            started = time.perf_counter()
            tally = _asked(api[path][method], path, mode, arguments, bar.update)
            bar.update(number * arguments.examples - bar.n)  # some have fewer requests to make
            made = "as described" if mode.is_positive else "not as described"
            _write_down(f"{method} {path}, {made}", tally, arguments.failures)
            rows.append(
                {
                    "operation": f"{method} {path}",
                    "requests": made,
                    "cases": tally.cases,
                    **{kind: tally.failures[kind] for kind in (*_KINDS.values(), _OTHERS, _UNANSWERED)},
                    "seconds": round(time.perf_counter() - started, 1),
                }
            )
    return rows


def _asked(operation: Any, path: str, mode: Any, arguments: argparse.Namespace, step: Callable[[], object]) -> _Tally:
    """Sends the requests of one operation."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st
    from requests import RequestException
    from schemathesis.core.failures import FailureGroup

    from benchmarks.openapi_cases import validate

    tally = _Tally()

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode), st.sampled_from(_MODELS))
    def ask(case: Any, name: str | None) -> None:
        if mode.is_positive and name is not None and "{name}" in path:
            case.path_parameters = {**case.path_parameters, "name": name} | ({"version": "1"} if "{v" in path else {})
        tally.cases += 1
        step()
        try:
            validate(case)
        except FailureGroup as group:
            tally.fail((_kind_of(failure) for failure in group.exceptions), str(group))
        except RequestException as error:
            tally.fail([_UNANSWERED], f"{error}\n{case.as_curl_command()}")

    ask()
    return tally


def _kind_of(failure: BaseException) -> str:
    return next((_KINDS[kind.__name__] for kind in type(failure).__mro__ if kind.__name__ in _KINDS), _OTHERS)


def _write_down(what: str, tally: _Tally, folder: Path) -> None:
    if tally.said:
        slug = "-".join("".join(letter if letter.isalnum() else " " for letter in what).split())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{slug}.txt").write_text("\n\n".join(tally.said))
        print(f"{what}: {len(tally.said)} written to {folder / slug}.txt; the first: {tally.said[0]}")


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    cases = sum(int(str(row["cases"])) for row in rows)
    needed = {
        "server_errors": "answers of 5xx that nobody asked for",
        "undocumented_statuses": "answers with a status that is not described",
        _OTHERS: "answers otherwise not as described",
        _UNANSWERED: "requests without an answer",
    }
    for column, what in needed.items():
        found = sum(int(str(row[column])) for row in rows)
        yield Verdict(what, "0", f"{found} of {cases}", found == 0)
