"""What a pickle would build, read opcode by opcode: nothing is imported, and nothing of it runs."""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

__all__ = ["Made", "Outline", "outline"]

_MARK = object()
_CONTAINERS = {"APPEND", "APPENDS", "ADDITEMS"}


@dataclass
class Made:
    """A class or function that was named, or what would come of calling it, with the dictionary that is its state."""

    name: str
    state: dict[Any, Any] | None = None


@dataclass(frozen=True)
class Outline:
    """What the last of several pickles builds, and each ``module name`` that any of them asks for.

    Texts and dictionaries are as they are, objects are `Made`, whatever else is None.
    """

    built: Any
    names: tuple[str, ...]


def outline(pickled: bytes, pickles: int) -> Outline:
    """Of as many pickles in a row as there are at most; of a damaged one, what was read so far."""
    stream = io.BytesIO(pickled)
    names: list[str] = []
    built: Any = None
    try:
        for _ in range(pickles):
            reader = _Reader(names)
            # Each pickle of the row ends by its own STOP; the stream stays where the next one begins.
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name == "STOP":
                    built = reader.stack[-1]
                else:
                    reader.step(opcode, argument)
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError):
        return Outline(built, tuple(names))
    return Outline(built, tuple(names))


class _Reader:
    """The pickle machine, of which only names, texts and dictionaries are kept."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}

    def step(self, opcode: Any, argument: Any) -> None:
        """One opcode."""
        stack = self.stack
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MARK":
                stack.append(_MARK)
            case "GLOBAL":
                self._name(str(argument))
            case "STACK_GLOBAL":
                # The name lies on top of the module.
                name, module = stack.pop(), stack.pop()
                self._name(f"{module} {name}")
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                self._call(2 if opcode.name == "NEWOBJ_EX" else 1)
            case "BUILD":
                self._build(stack.pop())
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_pairs(self._to_mark()))
            case "SETITEM" | "SETITEMS":
                items = self._to_mark() if opcode.name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
                self._set(_pairs(items))
            case _:
                self._other(opcode, argument)

    def _name(self, name: str) -> None:
        self.names.append(name)
        self.stack.append(Made(name))

    def _call(self, arguments: int) -> None:
        for _ in range(arguments):
            self.stack.pop()
        called = self.stack.pop()
        name = called.name if isinstance(called, Made) else ""
        # State dicts are ordered dictionaries: only as a dictionary do they take the items that follow.
        self.stack.append({} if name == "collections OrderedDict" else Made(name))

    def _build(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # the attributes, and those of slots
            state = state[0]
        if isinstance(self.stack[-1], Made) and isinstance(state, dict):
            self.stack[-1].state = state

    def _set(self, items: dict[Any, Any]) -> None:
        held = self.stack[-1]
        if isinstance(held, dict):
            held.update(items)

    def _to_mark(self) -> list[Any]:
        items = []
        while (top := self.stack.pop()) is not _MARK:
            items.append(top)
        return items[::-1]

    def _other(self, opcode: Any, argument: Any) -> None:
        """By what the opcode is declared to take and leave; what it leaves is told of texts alone."""
        taken = [slot.name for slot in opcode.stack_before]
        # Arguments in the stream are not on the stack: pickletools declares what an opcode pops and pushes.
        popped: list[Any] = []
        if "mark" in taken:
            popped = self._to_mark()
            # What is declared above the mark went with the items down to it.
            taken = taken[: taken.index("mark")]
        held = self.stack[-1] if opcode.name in _CONTAINERS else None
        popped = [self.stack.pop() for _ in taken][::-1] + popped
        if opcode.name == "DUP":
            self.stack += popped * 2
        elif opcode.name in {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}:
            self.stack.append(tuple(popped))
        elif opcode.name == "BINPERSID":
            self.stack.append(_source(popped[0]))
        elif opcode.name == "INST":
            self._name(str(argument))
        elif opcode.name == "OBJ":
            self.stack.append(Made(popped[0].name if isinstance(popped[0], Made) else ""))
        elif opcode.name in _CONTAINERS:
            self.stack.append(held)
        elif opcode.stack_after:
            # Only texts and whole numbers of the stream itself: they may be keys, or parts of a name.
            self.stack.append(argument if isinstance(argument, (str, int)) and not taken else None)


def _source(reference: Any) -> Any:
    """The class that torch.save, before its zip archives, kept beside its source text; None for a storage."""
    match reference:
        case ("module", Made() as module_class, *_):
            return module_class
        case _:
            return None


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys, values = items[::2], items[1::2]
    # Other keys may not be hashable, and none of them is asked for.
    return {k: v for k, v in zip(keys, values, strict=True) if isinstance(k, (str, int))}
