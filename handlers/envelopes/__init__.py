"""Envelopes: formats around a handler's own, taken off requests and put on answers (`service_envelope=`)."""

from __future__ import annotations

from handlers.envelopes.base import BaseEnvelope, Entry
from handlers.envelopes.body import BodyEnvelope
from handlers.envelopes.instances import JSONEnvelope
from handlers.envelopes.kserve import KServeEnvelope
from handlers.envelopes.kservev2 import KServev2Envelope
from handlers.errors import ModelLoadError

ENVELOPES: dict[str, type[BaseEnvelope]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}


def wrap(name: str, entry: Entry) -> Entry:
    """`entry` inside the envelope of that name.

    Raises:
        ModelLoadError: unknown name; the known ones are listed.
    """
    if name not in ENVELOPES:
        raise ModelLoadError(f"service_envelope {name!r} is not known; known: {', '.join(sorted(ENVELOPES))}")
    return ENVELOPES[name](entry).handle
