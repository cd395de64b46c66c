"""SIGTERM under load, in one process and with fronts: whether every request that was accepted gets its answer.

A request is accepted when the server's access log has it. One that the log does not have was refused, or came on a
connection that the server closed at that moment without reading it: HTTP has clients send such a request again.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

PACKAGES = ("uvicorn", "onnxruntime", "pillow", "numpy")
_EXIT_WITHIN_S = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    parser.add_argument("--rounds", type=whole(1), default=5, help="servers of each kind (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load before SIGTERM (default: 3)")
    parser.add_argument("--clients", type=whole(1), default=32, help="connections (default: 32)")
    parser.add_argument("--fronts", nargs="+", type=whole(0), default=[0, 2], help="front processes (default: 0 2)")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each server that was ended."""
    from tqdm import tqdm

    from benchmarks.servers import form_and_body, photo, write_mini_model

    turns = [(round_, fronts) for round_ in range(1, arguments.rounds + 1) for fronts in arguments.fronts]
    with TemporaryDirectory() as scratch:
        models = write_mini_model(Path(scratch) / "models")
        _, request = form_and_body(photo())
        return [
            {
                "fronts": fronts,
                "round": round_,
                "clients": arguments.clients,
                **_end_one(models, fronts, request, arguments),
            }
            for round_, fronts in tqdm(turns, desc="drain", unit="server", leave=False)
        ]


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Judges the rows of one run."""
    for fronts in sorted({int(str(row["fronts"])) for row in rows}):
        own = [row for row in rows if row["fronts"] == fronts]
        lost = sum(int(str(row["lost"])) + int(str(row["hung"])) for row in own)
        where = f"{fronts} fronts" if fronts else "one process"
        yield Verdict(f"requests lost, {where}", "0", str(lost), lost == 0)
        codes = sorted({str(row["exit_code"]) for row in own})
        yield Verdict(f"exit code, {where}", "0", " ".join(codes), codes == ["0"])


def _end_one(models: Path, fronts: int, request: bytes, arguments: argparse.Namespace) -> dict[str, object]:
    from benchmarks.crowd import Crowd, counted

    log = models.parent / "log"
    command = [sys.executable, "-m", "serve", str(models), "--port", "0", "--log-format", "json"]
    command += ["--fronts", str(fronts)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, cwd=Path(__file__).resolve().parents[1]
        )
    try:
        with Crowd(_port_of(process, log), request, arguments.clients) as crowd:
            time.sleep(arguments.seconds)
            in_flight, told = crowd.in_flight, time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(_EXIT_WITHIN_S)
            seconds = time.monotonic() - told
    finally:
        process.kill()
        process.communicate()
    accepted = set(_accepted(log))
    complete = {one.request_id for one in crowd.asked if one.outcome.isdigit()}
    cut = [one for one in crowd.asked if one.outcome == "cut" and one.request_id not in accepted]
    return {
        "in_flight": in_flight,
        "exit_s": round(seconds, 2),
        "exit_code": code,
        "accepted": len(accepted),
        "lost": len(accepted - complete),
        **counted([one for one in crowd.asked if one.ended > told]),
        "longest_cut_ms": round(max((one.ended - one.sent for one in cut), default=0.0) * 1e3, 1),
    }


def _port_of(process: "subprocess.Popen[bytes]", log: Path) -> int:
    assert process.stdout is not None, "it was asked for"
    line = process.stdout.readline().decode()
    if "ready, open" not in line:
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
    return int(line.rstrip().rstrip("/").rsplit(":", 1)[1])


def _accepted(log: Path) -> Iterator[str]:
    """Ids of the crowd's requests in a server's log."""
    import orjson

    with log.open("rb") as lines:
        for line in lines:
            if line.startswith(b"{") and b'"request_id"' in line:
                yield orjson.loads(line)["request_id"]
