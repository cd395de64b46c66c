"""Requests as the OpenAPI document has them: a short run finds nothing, and what is found is counted by its kind."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis

from benchmarks import openapi, openapi_cases
from benchmarks.cli import main
from benchmarks.rows import read_rows
from serve.app import create_app
from serve.models.repository import Repository
from serve.oip.infer import INFER
from serve.settings import Settings


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    failures = tmp_path / "failures"
    arguments = ["--out", str(tmp_path), "openapi", "--examples", "2", "--failures", str(failures)]
    assert main(arguments) == 0
    rows = read_rows("openapi", tmp_path)
    assert len(rows) == len(openapi_cases.OPERATIONS)
    assert all(0 < int(row["cases"]) <= 2 for row in rows)
    assert not failures.exists()


def test_what_the_document_does_not_describe_is_counted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A document that knows of no refusals finds every one."""
    found = openapi_cases.api_of

    def api_of(url: str) -> Any:
        document = found(url)
        responses = document.raw_schema["paths"][INFER]["post"]["responses"]
        for status in [status for status in responses if status != "200"]:
            del responses[status]
        return document

    monkeypatch.setattr(openapi_cases, "api_of", api_of)
    failures = tmp_path / "failures"
    arguments = ["--out", str(tmp_path), "openapi", "--examples", "3", "--operation", INFER]
    assert main([*arguments, "--failures", str(failures)]) == 1
    positive, negative = read_rows("openapi", tmp_path)
    assert (positive["requests"], negative["requests"]) == ("as described", "not as described")
    assert int(negative["undocumented_statuses"]) == int(negative["cases"]) == 3
    assert (negative["server_errors"], negative["unanswered"]) == ("0", "0")
    said = capsys.readouterr().out
    assert "met     answers of 5xx that nobody asked for: needed 0" in said
    assert "MISSED  answers with a status that is not described: needed 0" in said
    [kept] = failures.glob("*-not-as-described.txt")
    assert "curl -X POST" in kept.read_text()


@pytest.mark.parametrize(
    ("path", "form", "lost"),
    [
        ("/v1/denoise", {"file": b"picture", "model": []}, True),
        ("/v1/denoise", {"file": b"picture", "quality": [90]}, True),
        ("/v1/denoise", {"file": b"picture", "unheard of": []}, True),
        ("/v1/denoise", {"file": b"picture", "quality": [90, 91]}, False),
        ("/v1/denoise", {"file": b"picture", "model": {}}, False),
        ("/v1/classify", {"file": [b"picture"]}, False),
    ],
)
def test_a_form_loses_the_lists_of_what_is_one_value(
    path: str, form: dict[str, Any], lost: bool, tmp_path: Path
) -> None:
    document = create_app(Settings(), Repository([], tmp_path)).openapi()
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    assert openapi_cases.loses_lists(operation.Case(body=form, media_type="multipart/form-data")) is lost
    assert not openapi_cases.loses_lists(operation.Case(body=b"picture", media_type="image/png"))


def test_each_kind_of_failure_has_its_verdict() -> None:
    clean = {"cases": 5, "server_errors": 0, "undocumented_statuses": 0, "other_failures": 0, "unanswered": 0}
    assert all(verdict.met for verdict in openapi.verdicts([clean, clean]))
    for kind in list(clean)[1:]:
        judged = list(openapi.verdicts([clean, {**clean, kind: 2}]))
        assert [verdict.found for verdict in judged if not verdict.met] == ["2 of 10"]


def test_an_unknown_operation_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "openapi", "--operation", "/v9"]) == 1
    assert "there is no operation '/v9'; there are: /v1/classify, " in capsys.readouterr().err
