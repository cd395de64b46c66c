"""The configuration file: what it may hold, what wins over it, and what is said of a bad one."""

from pathlib import Path

import pytest

from serve.cli import main
from serve.settings import Settings

GOOD = """
port = 1234
max_batch = 4

[models.digits]
instances = 2
versions = [1, 3]

[groups.any]
variants = ["digits", "digits_fast"]
p99_ms = 50
"""


def test_arguments_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("SKIPVIT_MAX_BATCH", "8")
    settings = Settings.load(file, port="99")
    assert (settings.port, settings.max_batch) == (99, 8)
    assert settings.of("digits").instances == 2
    assert settings.of("digits").versions == [1, 3]
    assert settings.of("other").versions == "latest"
    assert settings.groups["any"].variants == ["digits", "digits_fast"]
    assert Settings().port == 8000, "the file is for one load only"


def test_the_environment_may_name_the_file_and_hold_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("SKIPVIT_CONFIG", str(file))
    assert Settings.load().port == 1234
    monkeypatch.setenv("SKIPVIT_MODELS", '{"digits": {"max_in_flight": 3}}')
    assert Settings.load().of("digits").max_in_flight == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("port = ", "the configuration cannot be read"),
        ("port = 1".encode("utf-16"), "the configuration cannot be read"),
        ("drain_s = inf", "--drain-s"),
        ("[groups.any]\nvariants = ['one', 'two']\np99_ms = inf", "groups.any.p99_ms is inf"),
        ("prt = 1", "prt is 1: Extra inputs are not permitted"),
        ("[models.digits]\ninstances = 0", "models.digits.instances is 0"),
        ("[models.digits]\nversions = 'newest'", "models.digits.versions"),
        ("[groups.any]\nvariants = ['one']\np99_ms = 5", "groups.any.variants"),
    ],
)
def test_a_bad_file_ends_the_server_with_its_fault(
    text: str | bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.toml"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert main([str(tmp_path), "--config", str(file)]) == 1
    assert said in capsys.readouterr().err
