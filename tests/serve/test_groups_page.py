"""A group on the page: it is chosen like a model, and the answer says which variant gave it."""

from pathlib import Path
from typing import Any

from serve.models.repository import Repository
from serve.models.settings import GroupSettings
from serve.settings import Settings
from tests.serve.browser import IN_A_BROWSER, done, opened
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import over_socket, png, write_model

pytestmark = IN_A_BROWSER


def test_a_group_is_chosen_like_a_model_and_its_variant_is_named(browser: Any, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("best", "good"):
        write_model(models, name, side=96)
    for name in ("clean", "cleaner"):
        write_denoiser(models, name)
    groups = {
        "shades": GroupSettings(variants=["best", "good"], p99_ms=60_000),
        "photos": GroupSettings(variants=["cleaner", "clean"], p99_ms=60_000),
    }
    settings = Settings(decode_threads=1, tile_threads=1, access_log=False, groups=groups)
    picture = {"name": "white.png", "mimeType": "image/png", "buffer": png(255)}
    with over_socket(Repository.open(models, settings), settings) as site:
        with opened(browser, site, "/?model=shades") as page:
            assert page.locator("#model").input_value() == "shades"
            assert page.locator("#model option[value=shades]").inner_text() == "shades (group)"
            assert page.locator("#facts").inner_text() == "best, good: the most exact that the load allows"
            page.set_input_files("#file", picture)
            done(page)
            assert page.locator("#status").inner_text().endswith("says best.")
            assert "model=shades" in page.locator("#curl").inner_text()
        with opened(browser, site, "/?model=photos") as page:
            page.set_input_files("#file", picture)
            done(page)
            assert page.locator("#status").inner_text().startswith("cleaner ")
