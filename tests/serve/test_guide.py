"""serve/README.md: its configuration file is read as it stands, and every flag and header that it names exists."""

import re
from pathlib import Path

from serve.cli import flags
from serve.settings import Settings
from tests.docker.dockerfile import ROOT

GUIDE = (ROOT / "serve" / "README.md").read_text()


def test_the_configuration_file_of_the_guide_is_read(tmp_path: Path) -> None:
    [block] = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
    file = tmp_path / "serve.toml"
    file.write_text(block)
    settings = Settings.load(file)
    assert settings.of("digits_vit").instances == 2
    assert settings.groups["digits"].variants == ["digits_vit", "digits_fast"]


def test_every_flag_of_the_guide_exists() -> None:
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", GUIDE))
    known = {name.replace("_", "-") for name in flags()} | {"config", "help", "new-key", "max-replicas"}
    assert len(named) > 5
    assert named <= known


def test_every_file_that_the_guide_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", GUIDE)
    assert links
    assert all((ROOT / "serve" / link).exists() for link in links)
