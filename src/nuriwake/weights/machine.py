"""A small machine that carries out the programs which pickles are, and can do nothing but build what checkpoints hold.

Its instructions are those of Python's `pickletools`; what a call can reach are the builders of `ALLOWED`. What Python's own
machine leaves to the pickle is bounded here: keys are texts and numbers (hashing a tuple of tuples costs without end), there is
a limit to the instructions, and one to the bytes that calls may build from the file.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import Any

from nuriwake.weights.builders import (
    ALLOWED,
    ArrayRecipe,
    Builder,
    DTypeRecipe,
    Placeholder,
    RefusedError,
    Sealed,
    hashable,
    never,
)

INSTRUCTION_LIMIT = 1 << 22
"""Of one pickle. Those of published checkpoints have tens of thousands, with lists of numbers beside the arrays some more."""

FREE_BYTES = 64 * 2**20
MULTIPLE = 8
"""So many times the size of its file, and `FREE_BYTES`, a pickle may build by calls. Honest files build every array once, from
bytes that are built once; an optimiser or an average of the weights that shares arrays counts them again."""

_VALUE_NAMES = """
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
"""
_VALUES = frozenset(_VALUE_NAMES.split())
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT", "PUT"), ("BINGET", "LONG_BINGET", "GET")
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_FRESH: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


class Budget:
    """Bytes that calls may still build for a file of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._left = MULTIPLE * size + FREE_BYTES

    def spend(self, count: int) -> None:
        """Take `count` bytes. Raises RefusedError when there are no more."""
        self._left -= count
        if self._left < 0:
            raise RefusedError(
                "it builds the same numbers again and again, many times more bytes than the file has (a pickle bomb?)."
            )


class Machine:
    """Carries out one pickle.

    Args:
        storage: what an external object, a storage of PyTorch, is.
        budget: of the file.
        placeholders: whether foreign names become placeholders; they are refused otherwise.
    """

    def __init__(self, storage: Callable[[Any], Any], budget: Budget, *, placeholders: bool) -> None:
        self._storage, self._budget, self._placeholders = storage, budget, placeholders
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[Any, Any] = {}  # place -> object

    def run(self, stream: BytesIO) -> Any:
        """The object of the next pickle in `stream`, which is read to its end.

        Raises:
            RefusedError: an instruction or a name that no checkpoint needs, or more than the limits allow.
            ValueError, LookupError, TypeError: no pickle, or a damaged one.
        """
        actions = self._actions()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if count >= INSTRUCTION_LIMIT:
                raise RefusedError(f"its pickle has more than {INSTRUCTION_LIMIT:,} instructions.")
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _PUTS:  # with the values, most of all instructions: without a call
                self._memo[argument] = self._stack[-1]
            elif name in _GETS:
                self._stack.append(self._memo[argument])
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _FRESH:
                self._stack.append(_FRESH[name]())
            elif name in actions:
                actions[name](argument)
            else:
                raise RefusedError(f"it uses the instruction {name}, which no checkpoint needs.")
        return self._stack.pop()

    def _actions(self) -> dict[str, Callable[[Any], None]]:
        """Instruction -> what it does with its argument. Made anew, since one that was kept would keep the machine alive."""
        return {
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), self._ignore),
            "MEMOIZE": self._memoise,
            "MARK": self._mark,
            "POP": self._pop,
            "POP_MARK": self._pop_mark,
            "DUP": self._duplicate,
            "TUPLE": self._tuple,
            "TUPLE1": self._tuple1,
            "TUPLE2": self._tuple2,
            "TUPLE3": self._tuple3,
            "LIST": self._list,
            "APPEND": self._append,
            "APPENDS": self._appends,
            "DICT": self._dict,
            "SETITEM": self._set_item,
            "SETITEMS": self._set_items,
            "ADDITEMS": self._add_items,
            "FROZENSET": self._frozen_set,
            "GLOBAL": self._global,
            "STACK_GLOBAL": self._stack_global,
            "REDUCE": self._reduce,
            "NEWOBJ": self._new,
            "NEWOBJ_EX": self._new_with_names,
            "BUILD": self._build,
            "BINPERSID": self._external,
            "PERSID": self._external_text,
        }

    def _ignore(self, _: Any) -> None: ...

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _last(self, count: int) -> tuple[Any, ...]:
        items = tuple(self._stack[len(self._stack) - count :])
        if len(items) != count:
            raise IndexError("its pickle takes more than is there")
        del self._stack[-count:]
        return items

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _memoise(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _tuple(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _tuple1(self, _: Any) -> None:
        self._stack.append(self._last(1))

    def _tuple2(self, _: Any) -> None:
        self._stack.append(self._last(2))

    def _tuple3(self, _: Any) -> None:
        self._stack.append(self._last(3))

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def _append(self, _: Any) -> None:
        self._extend(list(self._last(1)))

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target += items
        elif not isinstance(target, Placeholder):
            raise TypeError("its pickle fills what is no list")

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._assign(items)

    def _set_item(self, _: Any) -> None:
        self._assign(list(self._last(2)))

    def _set_items(self, _: Any) -> None:
        self._assign(self._since_mark())

    def _assign(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) in (dict, OrderedDict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[hashable(key)] = value
        elif not isinstance(target, Placeholder):
            raise TypeError("its pickle fills what is no mapping")

    def _add_items(self, _: Any) -> None:
        items, target = self._since_mark(), self._stack[-1]
        if type(target) is set:
            target.update(map(hashable, items))
        elif not isinstance(target, Placeholder):
            raise TypeError("its pickle fills what is no set")

    def _frozen_set(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(frozenset(map(hashable, items)))

    def _global(self, names: Any) -> None:
        module, _, name = names.partition(" ")
        self._stack.append(self._resolved(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError("its pickle names an object by what is no text")
        self._stack.append(self._resolved(module, name))

    def _resolved(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        if not self._placeholders or never(module, name):
            raise RefusedError(f"it wants the object '{full[:100]}', which is no tensor, array or plain container.")
        return Placeholder(full[:100])

    def _reduce(self, _: Any) -> None:
        build, arguments = self._last(2)
        self._call(build, arguments)

    def _new(self, _: Any) -> None:
        kind, arguments = self._last(2)
        self._call_class(kind, arguments)

    def _new_with_names(self, _: Any) -> None:
        kind, arguments, _ = self._last(3)
        self._call_class(kind, arguments)

    def _call_class(self, kind: Any, arguments: Any) -> None:
        if not isinstance(kind, Placeholder):
            raise TypeError(f"its pickle makes an object of a {type(kind).__name__}")
        self._call(kind, arguments)

    def _call(self, build: Any, arguments: Any) -> None:
        if type(arguments) is not tuple:
            raise TypeError("its pickle calls without a tuple of arguments")
        if isinstance(build, Builder):
            made = build(*arguments)
            if all(made is not given for given in arguments):
                self._budget.spend(_bytes(made))
        elif isinstance(build, Placeholder):
            made = build
        else:
            raise TypeError(f"its pickle calls a {type(build).__name__}")
        self._stack.append(made)

    def _build(self, _: Any) -> None:
        (state,), target = self._last(1), self._stack[-1]
        if isinstance(target, ArrayRecipe | DTypeRecipe | Builder | Sealed):
            target.__setstate__(state)
        elif type(target) is not OrderedDict and not isinstance(target, Placeholder):
            raise TypeError(f"its pickle changes a {type(target).__name__}")
        # An ordered mapping may carry attributes (a state dict the versions of its modules), which nobody reads.

    def _external(self, _: Any) -> None:
        (described,) = self._last(1)
        self._stack.append(self._storage(described))

    def _external_text(self, described: Any) -> None:
        self._stack.append(self._storage(described))


def _bytes(made: Any) -> int:
    """What a call has built, about, in bytes of memory."""
    if isinstance(made, Sealed):
        return made.tensor.numel() * made.tensor.element_size()
    if isinstance(made, bytes):
        return len(made)
    return 64 * (1 + len(made)) if isinstance(made, list | dict | set | frozenset | tuple) else 64
