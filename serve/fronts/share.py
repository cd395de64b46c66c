"""What each of several fronts gets of the limits of their server."""

from serve.models.settings import ModelSettings
from serve.settings import Settings


def share_of(settings: Settings) -> Settings:
    """The settings of each of several fronts: what bounds a server's memory and threads is divided between them."""

    def share(limit: int, least: int = 1) -> int:
        return max(least, -(-limit // settings.fronts))

    return settings.model_copy(
        update={
            "max_in_flight": share(settings.max_in_flight, settings.max_files),
            "models": {name: _share_of_model(own, settings.fronts) for name, own in settings.models.items()},
            "max_buffered_bytes": share(settings.max_buffered_bytes, settings.max_body_bytes),
            "max_pixels_in_flight": share(settings.pixels_in_flight, settings.max_pixels),
            "max_videos": share(settings.max_videos),
            "max_idle_connections": share(settings.max_idle_connections, 0),
            "decode_threads": share(settings.decoders),
        }
    )


def _share_of_model(own: ModelSettings, fronts: int) -> ModelSettings:
    limit = own.max_in_flight
    return own if limit is None else own.model_copy(update={"max_in_flight": -(-limit // fronts)})
