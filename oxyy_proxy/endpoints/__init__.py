"""The modalities, one file each, and their table. Pure: parse, estimate, rewrite, meter.

Routes, metric labels and the conformance tests iterate over `ENDPOINTS`; a new modality is one file and one line here.
"""

from oxyy_proxy.endpoints import chat, embeddings, images, speech, transcriptions, videos
from oxyy_proxy.endpoints.base import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    chat.ENDPOINT,
    embeddings.ENDPOINT,
    images.GENERATIONS,
    images.EDITS,
    videos.ENDPOINT,
    transcriptions.ENDPOINT,
    speech.ENDPOINT,
)
