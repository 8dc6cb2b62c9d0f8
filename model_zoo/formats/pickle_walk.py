"""What unpickling a pickle would do, told by following its opcodes; nothing that it names is imported or called.

Pickle is a program for a small stack machine. The walk keeps the stack as descriptions (`Named`, `Made`, `Bytes`, plain
values), so that it can say what would be called with what. It goes on after a finding, works without recursion over
the file's structure, and skips the data: a file of any size is walked in the time its opcodes take.

Source: the opcode descriptions in CPython's `pickletools`, which also give the sizes of their arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from model_zoo.formats.errors import FormatError, shorten
from model_zoo.formats.pickle_names import MAX_STEPS, SIZES, VALUE_OF_EVAL
from model_zoo.formats.pickle_values import (
    CALL,
    CHANGE,
    DATA,
    FAULT,
    IMPORT,
    Bytes,
    Encoded,
    Finding,
    Made,
    Named,
    decode,
    show,
    show_items,
)
from model_zoo.formats.zip_archive import Data

MAX_FINDINGS = 1000
MAX_TEXT = 65536  # bytes of a text that may be a name; beyond it is data
MAX_DIGITS = 64


class Walk:
    """One pass over the pickle that begins at `data[start]`.

    Attributes:
        findings: in the order of the file, each different one once.
        counts: how often each (verdict, what) was met.
        nested: bytes that were handed to a call which is not on the list: they may be a pickle themselves.
        end: the place after the pickle.
        value: what it would give; an int where it is one (torch's magic number).
        elements: bytes of each storage of torch that was referred to, by its key.
        steps: how many opcodes were followed; `limit` is the most.
    """

    def __init__(
        self,
        data: Data,
        start: int,
        stop: int,
        where: str = "",
        storages: bool = False,
        limit: int = MAX_STEPS,
    ):
        self.data = data
        self.limit = limit
        self.steps = 0
        self.position = start
        self.stop = stop
        self.where = where
        self.storages = storages  # persistent ids are torch's storages
        self.base = start
        self.findings: list[Finding] = []
        self.counts: dict[tuple[str, str], int] = {}
        self.nested: dict[Any, Bytes | bytes] = {}
        self.elements: dict[str, int] = {}
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.end = start
        self.value: Any = None
        self.whole = False  # it has been followed to its end
        self.at = start  # the opcode under way

    def run(self) -> Walk:
        try:
            for name, argument in self._opcodes():
                if name == "STOP":
                    self.value = self.stack.pop()
                    break
                _EFFECTS[name](self, argument)
        except (FormatError, ValueError, IndexError, KeyError, OverflowError) as error:
            reason = str(error) if isinstance(error, FormatError) else "it makes no sense there"
            self.find(FAULT, f"the pickle is damaged: {reason}")
        else:
            self.whole = True
        self.end = self.position
        return self

    def find(self, verdict: str, what: str) -> None:
        seen = self.counts.get((verdict, what), 0)
        if not seen and len(self.findings) >= MAX_FINDINGS and verdict != FAULT:
            raise FormatError(f"it holds more than {MAX_FINDINGS} different things")
        self.counts[verdict, what] = seen + 1
        if not seen:
            self.findings.append(Finding(verdict, what, self.at - self.base, self.where))

    # Reading

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        while self.steps < self.limit:
            self.steps += 1
            self.at = at = self.position
            if at >= self.stop:
                raise FormatError("it ends early")
            code = self.data[at : at + 1]
            if code not in _OPCODES:
                raise FormatError(f"{code!r} is no step of one")
            self.position = at + 1
            name, size = _OPCODES[code]
            yield name, self._argument(name, size) if size else None
        raise FormatError(f"the file has more than {MAX_STEPS} steps, far more than weights need")

    def _argument(self, name: str, size: int) -> Any:
        """The place of an opcode's argument, or a list of two places."""
        if name in ("GLOBAL", "INST"):  # two lines
            return [self._line(), self._line()]
        if size == pickletools.UP_TO_NEWLINE:
            return self._line()
        if size < 0:
            width, signed = _LENGTHS[size]
            size = int.from_bytes(self._take(width), "little", signed=signed)
        return self._place(size)

    def _place(self, size: int) -> tuple[int, int]:
        start = self.position
        if not 0 <= size <= self.stop - start:
            raise FormatError(f"{size} bytes are announced where {self.stop - start} are left")
        self.position = start + size
        return start, self.position

    def _take(self, size: int) -> bytes:
        start, stop = self._place(size)
        return self.data[start:stop]

    def _line(self) -> tuple[int, int]:
        end = self.data.find(b"\n", self.position, self.stop)
        if end < 0:
            raise FormatError("a line does not end")
        place = self.position, end
        self.position = end + 1
        return place

    def protocol(self, place: tuple[int, int]) -> None:
        if self.number(place) > 5:
            raise FormatError(f"its protocol is {self.number(place)}; 0 to 5 are known")

    def frame(self, place: tuple[int, int]) -> None:
        if self.number(place) > self.stop - self.position:
            raise FormatError(f"{self.number(place)} bytes are announced where {self.stop - self.position} are left")

    # Values

    def text(self, place: tuple[int, int], encoding: str) -> None:
        start, stop = place
        if stop - start > MAX_TEXT:
            self.push(Bytes(start, stop, encoding))
        else:
            self.push(decode(self.data[start:stop], encoding))

    def integer(self, place: tuple[int, int], signed: bool) -> None:
        start, stop = place
        if stop - start > MAX_DIGITS:
            self.push(Made(f"<a number of {stop - start} bytes>"))
        else:
            self.push(int.from_bytes(self.data[start:stop], "little", signed=signed))

    def integer_line(self, place: tuple[int, int]) -> None:
        start, stop = place
        digits = self.data[start : min(stop, start + MAX_DIGITS + 1)]
        # The magic number of torch is in decimal digits at protocol 0; any other number means nothing here.
        plain = len(digits) <= MAX_DIGITS and digits.rstrip(b"L").isdigit()
        self.push(int(digits.rstrip(b"L")) if plain else Made(f"<a number of {stop - start} digits>"))

    def number(self, place: tuple[int, int]) -> int:
        """An unsigned argument."""
        start, stop = place
        return int.from_bytes(self.data[start:stop], "little")

    def number_line(self, place: tuple[int, int]) -> int:
        start, stop = place
        return int(self.data[start : min(stop, start + MAX_DIGITS)])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.below.pop()

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise FormatError("its stack is empty")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push(items)

    def marked(self, make: Callable[[list[Any]], Any]) -> None:
        """What an opcode makes of all items above the mark."""
        items = self.pop_mark()
        self.push(make(items))

    def dictionary(self, items: Sequence[Any] = ()) -> None:
        made = Made("{...}")
        made.keys = []
        self.push(made)
        self.set_items(items)

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        self.fill(items, "__setitem__")
        if isinstance(target, Made) and target.keys is not None:
            target.keys.extend(items[: 4 - 2 * len(target.keys) : 2])

    def fill(self, items: Any, method: str) -> None:
        """Items are put into a value; where it is not one of ours, that calls a method of it."""
        target = self.stack[-1]
        if isinstance(target, Named) or (isinstance(target, Made) and not target.trusted):
            self.find(CALL, f"{target}.{method}")

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # Names, and what is made of them

    def named(self, module: Any, name: Any) -> Named:
        if type(module) is not str or type(name) is not str:
            raise FormatError("it names something that is not text")
        found = Named(module, name)
        self.find(IMPORT if found.makes is None else DATA, str(found))
        return found

    def global_lines(self, places: Sequence[tuple[int, int]]) -> None:
        module, name = (decode(self.data[start : min(stop, start + MAX_TEXT)], "utf-8") for start, stop in places)
        self.push(self.named(module, name))

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.push(self.named(self.stack.pop(), name))

    def extension(self, code: int) -> None:
        self.find(IMPORT, f"whatever has the code {code} in the extension registry")
        self.push(Made(f"extension {code}", trusted=False))

    def call(self, function: Any, arguments: Any, keywords: Any = None) -> None:
        """REDUCE and all other opcodes that make objects."""
        given = arguments if type(arguments) is tuple else (arguments,)
        makes = function.makes if isinstance(function, Named) else None
        if makes == "bytes of text" and given and isinstance(given[0], (str, Bytes, Encoded)):
            self.push(Encoded(given[0]) if type(given[0]) is str else given[0])
        elif (
            makes is not None
            and not makes.startswith(("class of", "storage of"))
            and (makes != VALUE_OF_EVAL or _is_value_of_eval(given))
        ):
            self.push(Made(makes))
        else:
            shown = f"{show(function)}({show_items(given)}{', **...' if keywords is not None else ''})"
            self.find(CALL, shown)
            self.push(Made(shorten(shown), trusted=False))
            for item in given[:16]:
                if isinstance(item, Bytes):
                    self.nested[item.start, item.stop] = item
                elif isinstance(item, Encoded):
                    self.nested[item.text] = item.text.encode("latin-1", "replace")

    def reduce(self) -> None:
        arguments = self.stack.pop()
        self.call(self.stack.pop(), arguments)

    def new_object(self, with_keywords: bool) -> None:
        keywords = self.stack.pop() if with_keywords else None
        arguments = self.stack.pop()
        kind = self.stack.pop()
        if isinstance(kind, Named) and kind.makes == "tuple" and not with_keywords:
            self.call(kind, arguments)
        else:
            self.make(kind, arguments, keywords)

    def make(self, kind: Any, arguments: Any, keywords: Any = None) -> None:
        """An object of a class, by an opcode with which weight files make none."""
        if isinstance(kind, Named) and kind.makes is not None:
            kind = Made(f"class {kind}", trusted=False)
        self.call(kind, arguments, keywords)

    def instance(self, places: Sequence[tuple[int, int]]) -> None:
        self.global_lines(places)
        kind = self.stack.pop()
        self.make(kind, tuple(self.pop_mark()))

    def marked_object(self) -> None:
        items = self.pop_mark()
        self.make(items[0], tuple(items[1:]))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Made) or not target.trusted:
            self.find(CHANGE, f"{show(target)} to the state {show(state)}")

    def persistent_id(self, identity: Any) -> None:
        known = self.storages and type(identity) is tuple and len(identity) >= 5 and identity[0] == "storage"
        kind, key, _, count = identity[1:5] if known else (None, None, None, None)
        if isinstance(kind, Named) and kind.makes in SIZES and type(key) is str and type(count) is int:
            self.elements[key] = count * SIZES[kind.makes]
        else:
            self.find(CALL, f"the persistent_load of whoever reads it, with {show(identity)}")
        self.push(Made("storage"))


def _is_value_of_eval(given: Sequence[Any]) -> bool:
    return len(given) == 2 and given[0] == "data" and isinstance(given[1], Made) and given[1].keys == ["data"]


_LENGTHS = {  # of an argument that begins with its length: bytes of the length, signed?
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_OPCODES = {
    opcode.code.encode("latin-1"): (opcode.name, opcode.arg.n if opcode.arg is not None else 0)
    for opcode in pickletools.opcodes
}


def _value(value: Any) -> Callable[[Walk, Any], None]:
    return lambda walk, place: walk.push(value)


def _made(how: str) -> Callable[[Walk, Any], None]:
    return lambda walk, place: walk.push(Made(how))


def _text(encoding: str) -> Callable[[Walk, Any], None]:
    return lambda walk, place: walk.text(place, encoding)


def _nothing(walk: Walk, place: Any) -> None:
    pass


_EFFECTS: dict[str, Callable[[Walk, Any], Any]] = {
    "PROTO": Walk.protocol,
    "FRAME": Walk.frame,
    "READONLY_BUFFER": _nothing,
    # plain values
    "NONE": _value(None),
    "NEWTRUE": _value(True),
    "NEWFALSE": _value(False),
    "INT": Walk.integer_line,
    "LONG": Walk.integer_line,
    "BININT": lambda w, place: w.integer(place, True),
    "BININT1": lambda w, place: w.integer(place, False),
    "BININT2": lambda w, place: w.integer(place, False),
    "LONG1": lambda w, place: w.integer(place, True),
    "LONG4": lambda w, place: w.integer(place, True),
    "FLOAT": _made("<a number>"),
    "BINFLOAT": _made("<a number>"),
    "STRING": _text("string"),
    "UNICODE": _text("raw-unicode-escape"),
    "BINSTRING": _text("latin-1"),
    "SHORT_BINSTRING": _text("latin-1"),
    "BINUNICODE": _text("utf-8"),
    "SHORT_BINUNICODE": _text("utf-8"),
    "BINUNICODE8": _text("utf-8"),
    "BINBYTES": lambda w, place: w.push(Bytes(*place)),
    "SHORT_BINBYTES": lambda w, place: w.push(Bytes(*place)),
    "BINBYTES8": lambda w, place: w.push(Bytes(*place)),
    "BYTEARRAY8": lambda w, place: w.push(Bytes(*place)),
    "NEXT_BUFFER": _made("<a buffer from outside>"),
    # containers
    "MARK": lambda w, _: w.mark(),
    "POP": lambda w, _: w.pop(),
    "POP_MARK": lambda w, _: w.pop_mark(),
    "DUP": lambda w, _: w.push(w.stack[-1]),
    "EMPTY_TUPLE": _value(()),
    "TUPLE": lambda w, _: w.marked(tuple),
    "TUPLE1": lambda w, _: w.tuple_of(1),
    "TUPLE2": lambda w, _: w.tuple_of(2),
    "TUPLE3": lambda w, _: w.tuple_of(3),
    "EMPTY_LIST": _made("[...]"),
    "LIST": lambda w, _: w.marked(lambda items: Made("[...]")),
    "APPEND": lambda w, _: w.fill(w.stack.pop(), "append"),
    "APPENDS": lambda w, _: w.fill(w.pop_mark(), "extend"),
    "EMPTY_DICT": lambda w, _: w.dictionary(),
    "DICT": lambda w, _: w.dictionary(w.pop_mark()),
    "SETITEM": lambda w, _: w.set_items((w.stack.pop(-2), w.stack.pop())),
    "SETITEMS": lambda w, _: w.set_items(w.pop_mark()),
    "EMPTY_SET": _made("{...}"),
    "FROZENSET": lambda w, _: w.marked(lambda items: Made("{...}")),
    "ADDITEMS": lambda w, _: w.fill(w.pop_mark(), "add"),
    # memory
    "PUT": lambda w, place: w.put(w.number_line(place)),
    "BINPUT": lambda w, place: w.put(w.number(place)),
    "LONG_BINPUT": lambda w, place: w.put(w.number(place)),
    "MEMOIZE": lambda w, _: w.put(len(w.memo)),
    "GET": lambda w, place: w.push(w.memo[w.number_line(place)]),
    "BINGET": lambda w, place: w.push(w.memo[w.number(place)]),
    "LONG_BINGET": lambda w, place: w.push(w.memo[w.number(place)]),
    # names and what is made of them
    "GLOBAL": Walk.global_lines,
    "STACK_GLOBAL": lambda w, _: w.stack_global(),
    "EXT1": lambda w, place: w.extension(w.number(place)),
    "EXT2": lambda w, place: w.extension(w.number(place)),
    "EXT4": lambda w, place: w.extension(w.number(place)),
    "REDUCE": lambda w, _: w.reduce(),
    "NEWOBJ": lambda w, _: w.new_object(False),
    "NEWOBJ_EX": lambda w, _: w.new_object(True),
    "INST": Walk.instance,
    "OBJ": lambda w, _: w.marked_object(),
    "BUILD": lambda w, _: w.build(),
    "PERSID": lambda w, place: w.persistent_id(decode(w.data[place[0] : min(place[1], place[0] + 200)], "latin-1")),
    "BINPERSID": lambda w, _: w.persistent_id(w.stack.pop()),
}
