"""The memory of a layer's weights: noticing that they changed, and lending mapped pages back to the system."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
from pathlib import Path
from typing import Any, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import _C_ops, nn

_WORD = 4  # bytes
_PLACES = 4  # of a tensor that are looked at, its ends among them; each may cost a page
_SAMPLE = 64  # words of a tensor that are looked at; one that has no more is looked at whole
_DONTNEED = 4  # MADV_DONTNEED: the pages go, and come from the file again
_share_data = getattr(_C_ops, "share_data", None)


class _Memory:
    """The address space as one array of words, so that words of all weights are read by one `take`.

    A view for each tensor would take many times as long. Only words of tensors that are held may be read.
    """

    base = 4096  # no array begins at 0
    __array_interface__ = {"version": 3, "typestr": "|u4", "shape": (2**46,), "data": (base, True)}


def weights_state(layer: nn.Layer) -> Tuple[Any, ...]:
    """What tells the weights of a layer now from those of another time: compare two states with `==`.

    Equal states mean the same parameter and buffer objects in the same places, over the same memory, of the same
    types and shapes, with the same count of in-place changes, and the same bits at 64 words of each (all words of a
    smaller one). paddle counts only some changes: not those of optimisers, `set_value`, `set_state_dict`, `copy_` or
    arrays that share the memory. These are seen by the bits, so that one that leaves all the 64 words as they are
    goes unnoticed; a counted one never does. On a GPU the bits are left out: they would have to be waited for.

    Takes about 0.4 ms for 150 weights and 1.9 ms for 700, and looks at four pages of a large one. Other threads may
    use and change the layer meanwhile: no memory is read that could be freed.
    """
    tensors = tensors_of(layer)
    with paddle.no_grad():
        held = [_hold(tensor) for tensor in tensors]
    versions = [tensor.inplace_version for tensor in tensors]
    types = [tensor.dtype for tensor in held]
    shapes = [tensor.shape for tensor in held]
    return [*map(id, tensors)], versions, types, shapes, *_sample(held, shapes)


def _hold(tensor: paddle.Tensor) -> paddle.Tensor:
    """A tensor over the same memory that keeps it from being freed, whatever becomes of the first one.

    `detach()` is no such thing: where the first is moved, by `.to(dtype)` for one, it follows. `share_data` takes half
    the time of `view_dtype`, but paddle 2 lacks it, and it makes its argument contiguous.
    """
    # In paddle 3.3 it has no kernel for bfloat16 on a CPU.
    if _share_data is not None and tensor.is_contiguous() and tensor.dtype != paddle.bfloat16:
        return _share_data(tensor)
    return _C_ops.view_dtype(tensor, tensor.dtype)


def tensors_of(layer: nn.Layer) -> List[paddle.Tensor]:
    """Parameters and buffers that have memory; `nn.Layer`'s own iterators, which make names, take ten times as long."""
    layers: List[Optional[nn.Layer]] = [layer]
    found: List[Optional[paddle.Tensor]] = []
    for each in layers:  # which grows
        if each is not None:
            content = each.__dict__
            found += content["_parameters"].values()
            found += content["_buffers"].values()
            layers += content["_sub_layers"].values()
    return [tensor for tensor in found if tensor is not None and tensor._is_initialized()]


def _sample(tensors: List[paddle.Tensor], shapes: List[Sequence[int]]) -> Tuple[List[int], bytes, List[bytes]]:
    """The addresses of tensors, and bits of those on the CPU: all bits of one that is not dense."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    sizes = [math.prod(shape) * tensor.element_size() for tensor, shape in zip(tensors, shapes)]
    if {*paddle.device.get_all_device_type()} - {"cpu"}:
        sizes = [size if tensor.place.is_cpu_place() else 0 for tensor, size in zip(tensors, sizes)]
    strided = [i for i, tensor in enumerate(tensors) if sizes[i] and not tensor.is_contiguous()]
    for i in strided:
        sizes[i] = 0
    words = _words_to_read(tuple(addresses), tuple(sizes))
    sample: np.ndarray = np.asarray(_Memory()).take(words)
    return addresses, sample.tobytes(), [tensors[i].numpy().tobytes() for i in strided]


@functools.lru_cache(maxsize=8)  # of plain numbers, which hold no memory
def _words_to_read(starts: Tuple[int, ...], sizes: Tuple[int, ...]) -> np.ndarray:
    """Numbers of words in `_Memory`, for tensors at these addresses, of so many bytes; none of those of 0.

    A tensor of two bytes gives the word around it, a piece of the page in which it lies.
    """
    start, size = np.array(starts, np.int64), np.array(sizes, np.int64)
    start, size = start[size > 0], size[size > 0]
    first = start // _WORD
    count = ((start + size - 1) // _WORD - first + 1)[:, None]
    in_all = np.minimum(np.arange(_SAMPLE), count - 1)
    words: np.ndarray = first[:, None] + np.where(count > _SAMPLE, _spread(count), in_all) - _Memory.base // _WORD
    return words


def _spread(count: np.ndarray) -> np.ndarray:
    """Which of `count` words are looked at: `_SAMPLE`, in `_PLACES` runs from the first to the last word."""
    run = _SAMPLE // _PLACES
    place, within = np.divmod(np.arange(_SAMPLE), run)
    spread: np.ndarray = (count - run) * place // (_PLACES - 1) + within
    return spread


def give_back_pages(tensors: Iterable[paddle.Tensor]) -> None:
    """Tell the system that weights which lie over a file's pages are not needed for now.

    For an engine that has made its own copy of them. Their memory is free at once, and values and private changes stay
    as they are: pages that were written are left alone (the system says which these are), and the others come back
    from the file, as a rule from the page cache, when they are looked at next. Tensors in ordinary memory, and systems
    without these calls, are passed over silently; so are the few pages that `weights_state` looks at.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes, madvise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    try:
        maps = _private_file_maps()
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            for tensor in tensors:
                if not tensor._is_initialized() or not tensor.place.is_cpu_place():
                    continue
                start = tensor.data_ptr()
                stop = start + math.prod(tensor.shape) * tensor.element_size()
                if any(begin <= start < stop <= end for begin, end in maps):
                    for first, last in _unwritten(pagemap.fileno(), start, stop):
                        madvise(first, last - first, _DONTNEED)
    except OSError:  # of a system that does not tell
        pass


def _unwritten(pagemap: int, start: int, stop: int) -> List[Tuple[int, int]]:
    """Address ranges of whole pages within `start` ... `stop` that are the file's, but for those that are sampled.

    A 64-bit entry a page has bit 63 where it is in memory, and bit 61 where it belongs to a file: one that this process
    has written to is its own, and has it not (`Documentation/admin-guide/mm/pagemap.rst` of Linux).
    """
    page = mmap.PAGESIZE
    first, last = -(-start // page), stop // page
    if last <= first:
        return []
    entries = np.frombuffer(os.pread(pagemap, 8 * (last - first), 8 * first), np.uint64)
    free = (entries >> np.uint64(63)).astype(bool) & ((entries >> np.uint64(61)) & np.uint64(1)).astype(bool)
    sampled = (start + _WORD * _spread(np.array((stop - start) // _WORD))) // page - first
    free[sampled[(sampled >= 0) & (sampled < len(free))]] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(np.int8)))
    return [(int(first + a) * page, int(first + b) * page) for a, b in edges.reshape(-1, 2)]


def _private_file_maps() -> List[Tuple[int, int]]:
    """Where this process has mapped files privately and for writing: first address, and the one after the last."""
    found = []
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        # 7f00a000-7f00b000 rw-p 00000000 fe:00 1234   /path
        addresses, access, _, _, inode = line.split(None, 5)[:5]
        if access == "rw-p" and inode != "0":
            start, _, end = addresses.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found
