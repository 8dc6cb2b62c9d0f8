"""Picture files: read whole whoever wrote them, and written with all that their format can hold."""

from ppdiffusers.pictures.errors import ImageError
from ppdiffusers.pictures.formats import Format, format_of
from ppdiffusers.pictures.metadata import Metadata
from ppdiffusers.pictures.reading import MAX_PIXELS, Document, Frame, open_image
from ppdiffusers.pictures.writing import Encoding, losses, write_document

__all__ = [
    "MAX_PIXELS",
    "Document",
    "Encoding",
    "Format",
    "Frame",
    "ImageError",
    "Metadata",
    "format_of",
    "losses",
    "open_image",
    "write_document",
]
