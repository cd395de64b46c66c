"""The description agrees with the server at length: every operation, with names of real models, loads and unloads."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.denoisers import write_denoiser
from tests.serve.foreign_models import SIMPLE_CONFIG, add_sub, write_foreign
from tests.serve.servers import over_socket, write_model
from tests.serve.test_openapi import IGNORED, OPERATIONS, POSITIVE, api_of, validate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("shades", "clean", "simple", None)
EXAMPLES = 250


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("described")
    write_model(root)
    write_denoiser(root)
    write_foreign(root, "simple", add_sub(), SIMPLE_CONFIG)
    own = Settings(decode_threads=1, tile_threads=1, access_log=False, model_control="explicit")
    with over_socket(Repository.open(root, own), own) as url:
        yield api_of(url)


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS, ids=[f"{m}{p}-{g.value}" for m, p, g in OPERATIONS])
def test_the_server_does_what_it_says_at_length(
    api: Any, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(api[path][method].as_strategy(generation_mode=mode), st.sampled_from(NAMES))
    def check(case: schemathesis.Case, name: str | None) -> None:
        if mode is POSITIVE and name is not None and "{name}" in path:
            case.path_parameters = {**case.path_parameters, "name": name} | ({"version": "1"} if "{v" in path else {})
        validate(case, IGNORED)

    check()
