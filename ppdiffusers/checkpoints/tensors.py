"""Where a tensor's bytes lie in a file, and how they become an array."""

from __future__ import annotations

import codecs
from typing import Any, Dict, Iterator, Optional, Sequence, Union

import numpy as np

from model_zoo import formats
from model_zoo.formats import check_shape, check_tensor, dense_strides
from ppdiffusers.checkpoints.errors import FormatError

# Name of a type -> numpy's type for the stored bits. numpy has no bfloat16: its bits are carried as uint16.
STORED_AS: Dict[str, np.dtype] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}

PIECE = 2**20  # bytes of text that are decoded at once
LONGEST_ESCAPE = len("\\U0001F600")


class Span(formats.Span):
    """Bytes `start:stop` of a file that become an array."""

    __slots__ = ()

    def buffer(self) -> memoryview:
        return memoryview(self.source)[self.start : self.stop]

    def pieces(self) -> Iterator[bytes]:
        """The bytes one after the other, each piece's memory given back behind it."""
        for start in range(self.start, self.stop, PIECE):
            piece = Span(self.source, start, min(start + PIECE, self.stop))
            yield bytes(piece.buffer())
            piece.release()


class TextBytes:
    """Bytes that a pickle holds as text, one character a byte: Python 3 writes them so at protocols 0 to 2.

    A span holds UTF-8, or at protocol 0 the "raw-unicode-escape" encoding.
    """

    __slots__ = ("text", "escaped")

    def __init__(self, text: Union[str, Span], escaped: bool = False):
        self.text = text
        self.escaped = escaped

    @property
    def size(self) -> Optional[int]:
        """None where only decoding would tell."""
        return len(self.text) if isinstance(self.text, str) else None

    def buffer(self) -> memoryview:
        return memoryview(_joined([self]))

    def pieces(self) -> Iterator[bytes]:
        """The file's pages, the text and the bytes of all of it together would be three times the tensor."""
        if isinstance(self.text, str):
            yield self.text.encode("latin-1")
            return
        span = self.text
        utf8 = codecs.getincrementaldecoder("utf-8")()
        start = span.start
        while start < span.stop:
            stop = min(start + PIECE, span.stop)
            if self.escaped and stop < span.stop:
                escape = span.source.rfind(b"\\", stop - LONGEST_ESCAPE, stop)
                stop = escape if escape > start else stop
            piece = Span(span.source, start, stop)
            raw = bytes(piece.buffer())
            piece.release()
            text = codecs.decode(raw, "raw-unicode-escape") if self.escaped else utf8.decode(raw, stop == span.stop)
            yield text.encode("latin-1")
            start = stop

    def release(self) -> None:
        if isinstance(self.text, Span):
            self.text.release()


Chunk = Union[Span, TextBytes]


def _joined(chunks: Sequence[Chunk]) -> bytearray:
    joined = bytearray()
    for chunk in chunks:
        for piece in chunk.pieces():
            joined += piece
    return joined


def as_chunk(raw: Any) -> Chunk:
    """The data of a pickled array, in any of the forms in which pickles carry bytes."""
    if isinstance(raw, (Span, TextBytes)):
        return raw
    if type(raw) is bytes:
        return Span(raw, 0, len(raw))
    if type(raw) is str:  # Python 2's str
        return TextBytes(raw)
    raise FormatError(f"gives a {type(raw).__name__} as the data of an array")


class StoredTensor:
    """A tensor in a file: type, shape, and the place of its elements; nothing is read before `read()`.

    Args:
        dtype: a key of `STORED_AS`.
        shape: sizes.
        chunks: the stored bytes; several where a writer split a large array.
        offset: elements before the first one.
        strides: in elements; C order by default.
        shared: the chunks may hold more than this tensor (torch's storages).
        big_endian: the stored elements have their high byte first.
        apart: no other tensor of the file has any of these bytes, so that it may be changed where it lies.
    """

    __slots__ = ("dtype", "shape", "chunks", "offset", "strides", "shared", "apart", "stored")

    def __init__(
        self,
        dtype: str,
        shape: Any,
        chunks: Sequence[Chunk],
        offset: Any = 0,
        strides: Any = None,
        shared: bool = False,
        big_endian: bool = False,
        apart: bool = False,
    ):
        self.dtype = dtype
        self.apart = apart
        self.stored = STORED_AS[dtype].newbyteorder(">" if big_endian else "<")
        self.shape = check_shape(shape)
        self.chunks = tuple(chunks)
        self.offset = offset
        self.shared = shared
        self.strides = dense_strides(self.shape) if strides is None else check_shape(strides)
        sizes = [chunk.size for chunk in self.chunks]
        self._check_size(None if None in sizes else sum(sizes))  # type: ignore[arg-type]

    def _check_size(self, stored: Optional[int]) -> None:
        check_tensor(self.dtype, self.shape, stored, self.offset, self.strides, self.shared)

    def read(self) -> np.ndarray:
        """A read-only array: a view on the file where its bits allow that, float32 for bfloat16."""
        if len(self.chunks) == 1:
            raw = self.chunks[0].buffer()
        else:
            raw = memoryview(_joined(self.chunks))
        self._check_size(len(raw))
        itemsize = self.stored.itemsize
        # Through an array, which keeps the memoryview: given the memoryview itself, numpy would keep only what is
        # under it, and the file's map could be closed under a living array.
        held = np.asarray(raw)
        array: np.ndarray = np.ndarray(
            self.shape, self.stored, held, self.offset * itemsize, tuple(step * itemsize for step in self.strides)
        )
        if self.dtype == "bfloat16":  # the upper half of a float32
            bits = array.astype("<u4")
            np.left_shift(bits, 16, out=bits)
            array = bits.view("<f4")
        elif not self.stored.isnative:
            array = array.astype(self.stored.newbyteorder("="))
        array.flags.writeable = False
        return array

    def place(self) -> Optional[Span]:
        """The bytes that are this tensor and no other, at a multiple of the item size; None if they do not lie so.

        That multiple is what paddle's kernels need: convolutions, linear layers, norms, embeddings and eight
        optimisers gave the same on float32 at every multiple of 4 as on fresh memory, with AVX-512 and with AVX2.
        """
        span = self.chunks[0]
        if not self.apart or not isinstance(span, Span) or not self.stored.isnative:
            return None
        return None if span.start % self.stored.itemsize else span

    def release(self) -> None:
        for chunk in self.chunks:
            chunk.release()
