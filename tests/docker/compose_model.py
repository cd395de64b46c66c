"""What `docker compose config` makes of compose.yaml, as far as ours needs it: include, merge keys, interpolation."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.docker.dockerfile import ROOT

# ${NAME:-default} and ${NAME:+replacement}: the forms that the Compose specification's interpolation has and we use.
_VARIABLE = re.compile(r"\$\{(\w+):([-+])([^{}]*)\}")


def interpolate(value: Any, environment: Mapping[str, str]) -> Any:
    """``value`` with the variables in its strings, at any depth, replaced."""

    def one(match: re.Match[str]) -> str:
        given, kind, text = environment.get(match[1], ""), match[2], match[3]
        if kind == "-":
            return given or text
        return text if given else ""

    if isinstance(value, str):
        replaced = _VARIABLE.sub(one, value)
        assert "$" not in replaced, f"a form of variable that this does not know: {value}"
        return replaced
    if isinstance(value, list):
        return [interpolate(each, environment) for each in value]
    if isinstance(value, dict):
        return {key: interpolate(each, environment) for key, each in value.items()}
    return value


def load(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """A compose file as its schema describes it."""
    loaded: dict[str, Any] = interpolate(yaml.safe_load(path.read_text()), environment)
    return loaded


def project(environment: Mapping[str, str]) -> dict[str, Any]:
    """The root's compose.yaml with what it includes."""
    root = load(ROOT / "compose.yaml", environment)
    merged: dict[str, Any] = {"name": root["name"], "services": {}, "volumes": {}}
    for included in root["include"]:
        assert (ROOT / included["project_directory"]).resolve() == ROOT, "paths are read as from the root"
        file = load(ROOT / included["path"], environment)
        for part in ("services", "volumes"):
            merged[part] |= file.get(part, {})
    return merged
