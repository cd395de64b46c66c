"""Reads a Dockerfile, and does in a folder what its stages do, so that what an image does is what was tested."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
# Folders that stages write to. One folder stands for the root of all stages, as no two of them write to the same.
_PLACES = re.compile(r"(?<![\w./-])/(?=(?:src|dist|opt|demo|models|mnt|tmp)\b)")


@dataclass(frozen=True)
class Instruction:
    """One line of a stage: ``COPY --from=wheel /dist/ /dist/`` has the keyword COPY, a flag and two words."""

    keyword: str
    value: str

    @property
    def flags(self) -> dict[str, str]:
        return dict(re.findall(r"--([\w-]+)=(\S+)", self.value.split(" CMD ")[0]))

    @property
    def words(self) -> list[str]:
        return [word for word in shlex.split(self.value) if not word.startswith("--")]


@dataclass
class Stage:
    """A FROM and what follows it; ``base`` is an image, or an earlier stage."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, keyword: str) -> list[Instruction]:
        return [each for each in self.instructions if each.keyword == keyword]


def read_stages(text: str) -> dict[str, Stage]:
    """Stages by name, with the default of each ARG before the first FROM put in where a FROM uses it."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, value = line.partition(" ")
        instruction = Instruction(keyword, " ".join(value.split()))
        if keyword == "FROM":
            image, _, name = instruction.value.partition(" AS ")
            stage = stages[name] = Stage(name, re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], image))
        elif not stages:
            assert keyword == "ARG"
            name, _, arguments[name] = instruction.value.partition("=")
        else:
            stage.instructions.append(instruction)
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those it starts from, the first of them first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def last(stages: dict[str, Stage], name: str, keyword: str) -> Instruction:
    """The instruction that counts in an image of which only the last does, such as CMD or USER."""
    return [each for stage in lineage(stages, name) for each in stage.all(keyword)][-1]


def command(instruction: Instruction) -> list[str]:
    """The words of an ENTRYPOINT, CMD or HEALTHCHECK in exec form, which a shell never sees."""
    words: list[str] = json.loads(instruction.value[instruction.value.index("[") :])
    return words


@dataclass(frozen=True)
class Replay:
    """A folder in place of an image's root, and a virtual environment in place of its base image's Python."""

    folder: Path
    base_bin: Path

    @classmethod
    def start(cls, folder: Path) -> "Replay":
        subprocess.run([sys.executable, "-m", "venv", folder / "base"], check=True)
        return cls(folder / "root", folder / "base" / "bin")

    def inside(self, text: str) -> str:
        """``text`` with every path of the image turned into one of the folder."""
        return _PLACES.sub(f"{self.folder}/", text)

    def environment(self, stages: dict[str, Stage], name: str) -> dict[str, str]:
        """What a process of an image is given: its ENV, and nothing of ours but where to find packages."""
        kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "UV_", "HTTP"))}
        environment = kept | {"PATH": f"{self.base_bin}:/usr/bin:/bin"}
        for stage in lineage(stages, name):
            for each in [*stage.all("ARG"), *stage.all("ENV")]:
                for word in each.words:
                    key, _, value = word.partition("=")
                    environment[key] = self.inside(value).replace("$PATH", environment["PATH"])
        return environment

    def build(self, stages: dict[str, Stage], name: str) -> None:
        """Does a stage's COPY and RUN, in their order; stages that it copies from have been built."""
        workdir = self.folder
        workdir.mkdir(parents=True, exist_ok=True)
        for each in stages[name].instructions:
            if each.keyword == "WORKDIR":
                workdir = Path(self.inside(each.value))
                workdir.mkdir(parents=True, exist_ok=True)
            elif each.keyword == "COPY" and "from" in each.flags:
                self._copy([Path(self.inside(word)) for word in each.words[:-1]], self.inside(each.words[-1]))
            elif each.keyword == "COPY":
                self._copy([ROOT / word for word in each.words[:-1]], workdir / self.inside(each.words[-1]))
            elif each.keyword == "RUN":
                self.run(self.inside(each.value), workdir, self.environment(stages, name))

    def run(self, script: str, workdir: Path, environment: dict[str, str]) -> None:
        done = subprocess.run(["/bin/sh", "-c", script], cwd=workdir, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    def _copy(self, sources: list[Path], target: str | Path) -> None:
        for source in sources:
            if source.is_file():
                into = Path(target) / source.name if str(target).endswith(("/", ".")) else Path(target)
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, into)
            elif source != Path(target):
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
