"""The one reader of pickles: it builds plain values and what the allow-list holds, and never calls what a file names.

Pickle is a program for a small stack machine. This one follows the opcodes that weight files use, over a memory map:
large byte strings become places in the file, not objects. Names of classes and functions are looked up in
`names.GLOBALS`, which holds our own inert stand-ins. Everything is iterative, each opcode does work bounded by the
bytes it consumes, their number is limited, and so is what the tensors hold together, so that no file can make it run
long, deep or large. What it accepts does nothing but make data in `pickle.load`, too.

Source: the opcode descriptions in CPython's `pickletools`.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from typing import Any, Callable

from model_zoo.formats import Data, FormatError, Tools, shorten
from model_zoo.formats.names import (
    MAX_ARGUMENTS,
    TAKE_NAMES,
    Attributes,
    Call,
    Foreign,
    Function,
    as_data,
    as_state,
    find_global,
    is_plain_key,
    make_tuple,
    names_something,
    set_items,
)

MAX_STEPS = 1_000_000  # opcodes; a model of a thousand tensors takes some 40,000
MAX_NAME = 65536  # bytes; longer text can only be bytes written as text
MAX_DIGITS = 64
WINDOW = 16 << 20  # bytes in which the end of a line is looked for at once
MAX_TEXT = 48 << 20  # bytes of all names and short texts, which become objects
# What the tensors may hold together, as a multiple of the file, and bytes. Several may share their numbers.
MAX_HELD, HELD_SLACK = 4, 1 << 20


def load_pickle(
    data: Data,
    start: int,
    stop: int,
    persistent: Callable[[Any], Any] | None = None,
    machine: type[Machine] | None = None,
    tools: Tools | None = None,
) -> tuple[Any, int]:
    """The value of the pickle that begins at `data[start]`, and the place after its end.

    Args:
        data: what holds the pickle; large byte strings of the value are spans of it.
        start, stop: where it begins, and where it must have ended.
        persistent: turns a persistent id (torch's storages) into a value; None where the format has none.
        machine: a subclass with opcodes of its own.
        tools: what places and tensors are made into.

    Raises:
        FormatError: something that is not allowed, or not a pickle. Damaged bytes may raise other exceptions too;
            nothing has been executed then either.
    """
    running = (machine or Machine)(data, start, stop, persistent, tools or Tools())
    return running.run(), running.position


class Machine:
    actions: dict[int, Callable[[Any], Any]]  # by opcode

    def __init__(self, data: Data, start: int, stop: int, persistent: Callable[[Any], Any] | None, tools: Tools):
        self.data = data
        self.position = start
        self.stop = stop
        self.persistent = persistent
        self.tools = tools
        self.steps = 0
        self.held = 0
        self.text_bytes = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            self.spend(1)
            if self.position >= self.stop:
                raise FormatError("ends early: in its pickle")
            opcode = self.data[self.position]
            self.position += 1
            if opcode == pickle.STOP[0]:
                return as_data(self.stack.pop())
            action = self.actions.get(opcode)
            if action is None:
                raise FormatError(_refusal(bytes([opcode])))
            action(self)

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise FormatError(f"holds a pickle of more than {MAX_STEPS} steps, far more than weights need")

    def hold(self, size: int) -> None:
        """Count the bytes of a tensor: one string of bytes may be handed to many."""
        self.held += size
        if self.held > MAX_HELD * len(self.data) + HELD_SLACK:
            raise FormatError(f"holds tensors of more than {MAX_HELD} times its size")

    def count_text(self, size: int) -> None:
        self.text_bytes += size
        if self.text_bytes > MAX_TEXT:
            raise FormatError(f"holds more than {MAX_TEXT >> 20} MiB of names and short texts, which weights do not")

    # Reading the program

    def span(self, size: int) -> Any:
        start = self.position
        if size < 0 or size > self.stop - start:
            raise FormatError(f"ends early: {size} bytes are announced where {self.stop - start} are left")
        self.position = start + size
        return self.tools.span(self.data, start, self.position)

    def take(self, size: int) -> bytes:
        span = self.span(size)
        return self.data[span.start : span.stop]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line_span(self, limit: int | None = None) -> Any:
        stop = self.stop if limit is None else min(self.stop, self.position + limit + 1)
        place, end = self.position, -1
        while end < 0 and place < stop:
            window = self.tools.span(self.data, place, min(place + WINDOW, stop))
            end = self.data.find(b"\n", place, window.stop)
            place = window.stop
            if window.size == WINDOW:  # what has been searched would stay in memory
                window.release()
        if end < 0:
            raise FormatError("ends early, or is no pickle: a line of text does not end")
        line = self.span(end - self.position)
        self.position += 1
        return line

    def line(self, limit: int | None = None) -> bytes:
        line = self.line_span(limit)
        self.count_text(line.size)
        return self.data[line.start : line.stop]

    def chunk(self, raw: Any) -> Any:
        """The data of a pickled array, in any of the forms in which pickles carry bytes."""
        if type(raw) in (self.tools.span, self.tools.text):
            return raw
        if type(raw) is bytes:
            return self.tools.span(raw, 0, len(raw))
        if type(raw) is str:  # Python 2's str
            return self.tools.text(raw)
        raise FormatError(f"gives a {type(raw).__name__} as the data of an array")

    def content(self, raw: Any) -> bytes:
        """Few bytes, read."""
        chunk = self.chunk(raw)
        if chunk.size is None or chunk.size > MAX_DIGITS:
            raise FormatError("gives a number or a code the data of an array")
        if type(chunk) is self.tools.text:
            return chunk.text.encode("latin-1")
        return chunk.source[chunk.start : chunk.stop]

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def make_tuple(self, items: list[Any]) -> None:
        self.push((Call if any(map(names_something, items)) else tuple)(items))

    def pop_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise FormatError("holds a damaged pickle: its stack is empty")
        items = self.stack[-size:]
        del self.stack[-size:]
        self.make_tuple(items)

    # Opcodes that do more than push a value

    def protocol(self) -> None:
        version = self.number("<B")
        if version > 5:
            raise FormatError(f"is a pickle of protocol {version}, or damaged; 0 to 5 are known")

    def frame(self) -> None:
        """A frame says how much to read at once: nothing to do on a map but to see that it is all there."""
        start = self.position + 8
        self.span(self.number("<Q"))
        self.position = start

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:  # POP of a mark
            self.stack = self.marked.pop()

    def text(self, size: int) -> None:
        if size > MAX_NAME:
            self.push(self.tools.text(self.span(size)))
        else:
            self.count_text(size)
            self.push(self.take(size).decode("utf-8"))

    def text_line(self) -> None:
        line = self.line_span()
        if line.size > MAX_NAME:
            line.release()  # looking for its end has read it
            self.push(self.tools.text(line, escaped=True))
        else:
            self.count_text(line.size)
            self.push(codecs.decode(self.data[line.start : line.stop], "raw-unicode-escape"))

    def string_line(self) -> None:
        """Python 2's str at protocol 0: as its source code would have it."""
        quoted = self.line(MAX_TEXT)
        if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in (b"'", b'"'):
            raise FormatError("holds a damaged pickle: a text without quotes")
        self.push(codecs.escape_decode(quoted[1:-1])[0].decode("latin-1"))  # type: ignore[attr-defined]

    def string(self, size: int) -> None:
        """Python 2's str: a name or bytes."""
        if size > MAX_NAME:
            self.push(self.span(size))
        else:
            self.count_text(size)
            self.push(self.take(size).decode("latin-1"))

    def integer_line(self) -> None:
        digits = self.line(MAX_DIGITS)
        booleans = {b"00": False, b"01": True}
        self.push(booleans[digits] if digits in booleans else int(digits.rstrip(b"L"), 0))

    def long(self, size: int) -> None:
        if size > MAX_DIGITS:
            raise FormatError(f"holds an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise FormatError(f"appends to a {type(target).__name__}")
        target.extend(map(as_data, items))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise FormatError(f"sets {len(items)} keys and values of a {type(target).__name__}")
        set_items(target, zip(items[::2], items[1::2]))

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def make_list(self) -> None:
        items = self.pop_mark()
        self.push([])
        self.append(items)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def index_line(self) -> int:
        """A place in the memory."""
        digits = self.line(MAX_DIGITS)
        if not digits.isdigit():  # other spellings are read by some and not by others
            raise FormatError("has a place in its memory that is no plain number")
        return int(digits)

    def find(self, module: Any, name: Any) -> Any:
        return find_global(module, name)

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Function or not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            raise FormatError("calls what is no function, or with arguments that no function of weight files takes")
        if type(arguments) is Call and function.build not in TAKE_NAMES:
            raise FormatError("hands a function or class to a call that takes none; the file was not executed")
        # One list can be handed over many times: its length counts as work each time.
        self.spend(sum(len(argument) for argument in arguments if type(argument) is list))
        return function(self, *arguments)

    def global_line(self) -> None:
        module = self.line(MAX_NAME).decode("utf-8")
        self.push(self.find(module, self.line(MAX_NAME).decode("utf-8")))

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.push(self.find(self.stack.pop(), name))

    def instance(self) -> None:
        """INST names a class and calls it in one: nothing that is allowed is made so."""
        self.global_line()
        raise FormatError("makes an object with the opcode INST, which weight files do not use")

    def reduce(self) -> None:
        arguments = self.stack.pop()
        self.push(self.call(self.stack.pop(), arguments))

    def new_tuple(self) -> None:
        """NEWOBJ makes an object of any class. torch 1.0 wrote its sizes so; a tuple is the only one that is made."""
        kind = self.stack[-2]
        if type(kind) is not Function or kind.build is not make_tuple:
            raise FormatError(_refusal(pickle.NEWOBJ))
        self.reduce()

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Attributes):
            target.set_state(self, state)
        elif type(target) is dict:  # the attributes of an OrderedDict, which mean nothing here
            as_state(state)
        else:
            raise FormatError(f"sets the state of a {type(target).__name__}")

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise FormatError("refers to objects outside the pickle, which its format does not know")
        self.push(self.persistent(self.stack.pop()))


def _refusal(opcode: bytes) -> str:
    import pickletools  # only a refusal names an opcode

    for known in pickletools.opcodes:
        if known.code == opcode.decode("latin-1"):
            return f"uses the pickle opcode {known.name}, which weight files do not need"
    return f"is no weight file, or a damaged one: {opcode!r} is no step of a pickle"


_ACTIONS: dict[bytes, Callable[[Any], Any]] = {
    pickle.PROTO: Machine.protocol,
    pickle.FRAME: Machine.frame,
    # plain values
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: Machine.integer_line,
    pickle.LONG: Machine.integer_line,
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: m.long(m.number("<B")),
    pickle.LONG4: lambda m: m.long(m.number("<i")),
    pickle.FLOAT: lambda m: m.push(float(m.line(MAX_DIGITS))),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.UNICODE: Machine.text_line,
    pickle.STRING: Machine.string_line,
    pickle.BINUNICODE: lambda m: m.text(m.number("<I")),
    pickle.SHORT_BINUNICODE: lambda m: m.text(m.number("<B")),
    pickle.BINUNICODE8: lambda m: m.text(m.number("<Q")),
    pickle.BINSTRING: lambda m: m.string(m.number("<i")),
    pickle.SHORT_BINSTRING: lambda m: m.string(m.number("<B")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number("<B"))),
    pickle.BINBYTES: lambda m: m.push(m.span(m.number("<I"))),
    pickle.BINBYTES8: lambda m: m.push(m.span(m.number("<Q"))),
    pickle.BYTEARRAY8: lambda m: m.push(m.span(m.number("<Q"))),
    # containers
    pickle.MARK: Machine.mark,
    pickle.POP: Machine.pop,
    pickle.POP_MARK: Machine.pop_mark,
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.make_tuple(m.pop_mark()),
    pickle.TUPLE1: lambda m: m.pop_tuple(1),
    pickle.TUPLE2: lambda m: m.pop_tuple(2),
    pickle.TUPLE3: lambda m: m.pop_tuple(3),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: Machine.make_list,
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: Machine.make_dict,
    pickle.SETITEM: lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    # memory
    pickle.PUT: lambda m: m.put(m.index_line()),
    pickle.BINPUT: lambda m: m.put(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.GET: lambda m: m.push(m.memo[m.index_line()]),
    pickle.BINGET: lambda m: m.push(m.memo[m.number("<B")]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("<I")]),
    # names and what is made of them
    pickle.GLOBAL: Machine.global_line,
    pickle.STACK_GLOBAL: Machine.stack_global,
    pickle.INST: Machine.instance,
    pickle.REDUCE: Machine.reduce,
    pickle.NEWOBJ: Machine.new_tuple,
    pickle.BUILD: Machine.build,
    pickle.BINPERSID: Machine.persistent_id,
}
Machine.actions = {opcode[0]: action for opcode, action in _ACTIONS.items()}


class SkippingMachine(Machine):
    """Goes on past what is not allowed, and runs as little of it.

    So it reads the rest of a training checkpoint (callbacks, hyper-parameters, optimisers) as `Foreign`s, and tells
    what a refused file would have run: `seen` is called with each name and each call.
    """

    def seen(self, what: str, arguments: Any = None) -> None:
        """A name that is not allowed, or a call of what it stands for."""

    def find(self, module: Any, name: Any) -> Any:
        found = _or_foreign(super().find, module, name)
        if type(found) is Foreign:
            found.name = f"{shorten(module)}.{shorten(name)}"
            self.seen(found.name)
        return found

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is Foreign:
            self.seen(function.name, arguments)
            return Foreign(function.fault, shorten(f"{function.name}(...)"))
        return _or_foreign(super().call, function, arguments)

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not Foreign:
            super().append([_passed_over(item) for item in items])
        else:
            self.seen(f"{self.stack[-1].name}.append", tuple(items))

    def set_items(self, items: list[Any]) -> None:
        """Without the items whose keys are not plain, such as the classes that Lightning keeps callbacks under."""
        if type(self.stack[-1]) is not Foreign:
            pairs = zip(items[::2], items[1::2])
            kept = [part for key, value in pairs if is_plain_key(key) for part in (key, _passed_over(value))]
            super().set_items(kept + items[len(items) // 2 * 2 :])
        else:
            self.seen(f"{self.stack[-1].name}.__setitem__", tuple(items))

    def build(self) -> None:
        if type(self.stack[-2]) is Foreign:
            self.seen(f"{self.stack[-2].name}.__setstate__", (self.stack.pop(),))
        else:
            _or_foreign(super().build)

    def persistent_id(self) -> None:
        if self.persistent is None:
            super().persistent_id()  # raises
        else:
            self.push(_or_foreign(self.persistent, self.stack.pop()))

    def call_marked(self) -> None:
        """OBJ: class and arguments are what lies above the mark."""
        items = self.pop_mark()
        self.push(self.call(items[0], tuple(items[1:])))

    def instance(self) -> None:
        """INST: the class is named in the opcode, its arguments are what lies above the mark."""
        arguments = tuple(self.pop_mark())
        self.global_line()
        self.push(self.call(self.stack.pop(), arguments))


def _passed_over(value: Any) -> Any:
    return Foreign("keeps a function or class among its data") if names_something(value) else value


def _or_foreign(action: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return action(*arguments)
    except FormatError as error:
        return Foreign(str(error))


_SKIPPING: dict[bytes, Callable[[Any], Any]] = {
    pickle.BUILD: SkippingMachine.build,
    pickle.BINPERSID: SkippingMachine.persistent_id,
    pickle.NEWOBJ: SkippingMachine.reduce,
    pickle.NEWOBJ_EX: lambda m: (m.stack.pop(), m.reduce()),  # without the keywords
    pickle.OBJ: SkippingMachine.call_marked,
    pickle.INST: SkippingMachine.instance,
    pickle.EMPTY_SET: lambda m: m.push(Foreign("holds a set")),
    pickle.ADDITEMS: lambda m: m.append(m.pop_mark()),
    pickle.FROZENSET: lambda m: (m.pop_mark(), m.push(Foreign("holds a set"))),
}
SkippingMachine.actions = {**Machine.actions, **{opcode[0]: action for opcode, action in _SKIPPING.items()}}
