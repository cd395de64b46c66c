"""Clean pictures that come with a denoiser, for a page to put noise on and take it off again."""

from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse

from serve.errors import NotFound, nearest, quoted
from serve.models.repository import Repository
from serve.openapi.document import error_response
from serve.tasks import SAMPLE

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A clean picture",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    },
    404: error_response("There is no such model, or it has no such sample"),
}


def add_sample_route(app: FastAPI, repository: Repository) -> None:
    """Adds the route of the samples that GET /v1/models names."""

    async def sample(name: str, file: str) -> FileResponse:
        """A picture without noise, to try a denoiser on: put noise on it, and see what is left of it."""
        model = repository.models.get(name)
        if model is None:
            raise NotFound("unknown_model", f"there is no model {quoted(name)}", nearest(name, repository.models))
        samples = () if model.task == "tensors" else model.entry.manifest.samples
        if file not in samples or not (model.folder / file).is_file():  # an old version's files may be gone already
            raise NotFound("unknown_sample", f"model {name!r} has no sample {quoted(file)}", nearest(file, samples))
        # The manifest lists it and its hash was checked; nothing else of the folder can be asked for.
        return FileResponse(model.folder / file, media_type="image/png", headers={"Cache-Control": "no-cache"})

    add = app.get(SAMPLE, summary="A clean picture", response_class=FileResponse, responses=_RESPONSES, tags=["models"])
    add(sample)
    app.head(SAMPLE, include_in_schema=False)(sample)
