"""Engines as they lie on disk: deserialized, or refused with a sentence that says what to do."""


class EngineError(Exception):
    """An engine cannot be opened or run; the message says why and what to do."""
