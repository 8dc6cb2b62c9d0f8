"""Pickles of training checkpoints: what is not allowed is passed over instead of refused, and run as little."""

from __future__ import annotations

import pickle
from typing import Any, Callable, List

from ppdiffusers.checkpoints.allowed import Foreign, is_plain_key
from ppdiffusers.checkpoints.errors import FormatError
from ppdiffusers.checkpoints.pickle_machine import Machine


class SkippingMachine(Machine):
    """Reads the rest of a training checkpoint too: callbacks, hyper-parameters, optimisers, as `Foreign`s."""

    def find(self, module: Any, name: Any) -> Any:
        return _or_foreign(super().find, module, name)

    def call(self, function: Any, arguments: Any) -> Any:
        return function if type(function) is Foreign else _or_foreign(super().call, function, arguments)

    def append(self, items: List[Any]) -> None:
        if type(self.stack[-1]) is not Foreign:
            super().append(items)

    def set_items(self, items: List[Any]) -> None:
        """Without the items whose keys are not plain, such as the classes that Lightning keeps callbacks under."""
        if type(self.stack[-1]) is not Foreign:
            pairs = zip(items[::2], items[1::2])
            kept = [part for key, value in pairs if is_plain_key(key) for part in (key, value)]
            super().set_items(kept + items[len(items) // 2 * 2 :])

    def build(self) -> None:
        if type(self.stack[-2]) is Foreign:
            self.stack.pop()
        else:
            _or_foreign(super().build)

    def persistent_id(self) -> None:
        if self.persistent is None:
            super().persistent_id()  # raises
        else:
            self.push(_or_foreign(self.persistent, self.stack.pop()))

    def call_with_keywords(self) -> None:
        self.stack.pop()
        self.reduce()

    def call_marked(self) -> None:
        """OBJ: class and arguments are what lies above the mark."""
        items = self.pop_mark()
        self.push(self.call(items[0], tuple(items[1:])))

    def instance(self) -> None:
        """INST: the class is named in the opcode, its arguments are what lies above the mark."""
        arguments = tuple(self.pop_mark())
        self.global_line()
        self.push(self.call(self.stack.pop(), arguments))

    def frozen_set(self) -> None:
        self.pop_mark()
        self.push(Foreign("holds a set"))


def _or_foreign(action: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return action(*arguments)
    except FormatError as error:
        return Foreign(str(error))


SkippingMachine.actions = {
    **Machine.actions,
    pickle.BUILD: SkippingMachine.build,
    pickle.BINPERSID: SkippingMachine.persistent_id,
    pickle.NEWOBJ: SkippingMachine.reduce,
    pickle.NEWOBJ_EX: SkippingMachine.call_with_keywords,
    pickle.OBJ: SkippingMachine.call_marked,
    pickle.INST: SkippingMachine.instance,
    pickle.EMPTY_SET: lambda m: m.push(Foreign("holds a set")),
    pickle.ADDITEMS: lambda m: m.append(m.pop_mark()),
    pickle.FROZENSET: SkippingMachine.frozen_set,
}
