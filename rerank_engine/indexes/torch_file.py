"""Arrays out of and into the files that torch.save writes, without torch, and without running what a file says.

Such a file is a zip archive: `<name>/data.pkl`, a pickle, and `<name>/data/<key>`, the bytes of each storage. A pickle is a program. Here
it runs on a small machine of our own that knows plain values, containers and a few names (torch._utils._rebuild_tensor_v2,
collections.OrderedDict, the types of storages): arrays come from numpy, any other name is refused, and nothing is imported or called.
A pickle of plain values may name numpy's scalars, which are read from their bytes.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, InputError, UnsafeModelError

_STORAGES = {
    "torch DoubleStorage": "f8",
    "torch FloatStorage": "f4",
    "torch HalfStorage": "f2",
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_REBUILD, _ORDERED = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
_NAMES = frozenset((_REBUILD, _ORDERED, *_STORAGES))
_SCALAR = re.compile(r"([iu](?=[1248]$)|U)(\d{1,6})")  # integers of 1, 2, 4 or 8 bytes, strings of so many code points
_SCALARS, _DTYPE = ("numpy._core.multiarray scalar", "numpy.core.multiarray scalar"), "numpy dtype"
_WRITTEN = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "i4": "IntStorage", "u1": "ByteStorage"}
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
    + "SHORT_BINBYTES BINBYTES".split()
)
_LONGEST = 256  # bits of an integer: larger ones cost time wherever they are used, and Python refuses to print them
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A global that a pickle asked for: a name, never the thing itself."""

    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    data: bytes
    dtype: np.dtype[Any]
    size: int


@dataclass(eq=False)
class _Kind:
    """Stands for a dtype of numpy's integers or strings, such as i8 and U5; its byte order comes in a BUILD."""

    code: str
    order: str = "<"


def read_torch(path: str | Path) -> Any:
    """What torch.save wrote, tensors as numpy arrays: one, or tuples, lists and dicts of them and of plain values.

    Raises FileFormatError (no such archive, cut short, damaged, not the format since torch 1.6) and UnsafeModelError (a pickle that
    names anything but what tensors need; it has not run).
    """
    path = Path(path)
    try:
        plain(path)
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except (OSError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zipfile.LargeZipFile, MemoryError) as error:
        # RuntimeError: an encrypted entry, and NotImplementedError, an unknown compression
        raise damaged(path, str(error) or type(error).__name__, "a file of torch.save, torch 1.6 or later") from error


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Any:
    entries: dict[str, zipfile.ZipInfo] = {}
    length = path.stat().st_size
    total = 0
    for entry in archive.infolist():
        if entry.filename in entries or entry.compress_type != zipfile.ZIP_STORED or entry.file_size < 0:
            raise ValueError(f"the entry '{entry.filename[:80]}' is there twice or compressed")
        entries[entry.filename] = entry
        total += entry.file_size
    if total > length:  # entries may name the same bytes, and a small file would take any memory
        raise ValueError(f"entries of {total} bytes in a file of {length}")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} entries data.pkl in the archive")
    folder = pickles[0][: -len("data.pkl")]
    order = archive.read(entries[folder + "byteorder"]) if folder + "byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise ValueError("an unknown byte order")
    read: dict[str, bytes] = {}

    def storage(key: str, kind: str, size: int) -> _Storage:
        if key not in read:
            if f"{folder}data/{key}" not in entries:
                raise ValueError(f"no storage '{key[:80]}'")
            read[key] = archive.read(entries[f"{folder}data/{key}"])
        item = np.dtype(kind).itemsize
        if size < 0 or size * item > len(read[key]):
            raise ValueError(f"{len(read[key])} bytes in storage '{key[:80]}' where {size} numbers of {item} bytes were written")
        return _Storage(read[key], np.dtype(("<" if order == b"little" else ">") + kind), size)

    return _Machine(path, storage).run(archive.read(entries[pickles[0]]))


def read_pickle_of_values(path: str | Path) -> Any:
    """A pickle of None, bools, numbers, strings, tuples, lists and dicts, where numpy's integers and strings count as Python's own.

    Raises FileFormatError, and UnsafeModelError for any other.
    """
    path = Path(path)
    try:
        return _Machine(path, None).run(plain(path).read_bytes())
    except (OSError, ValueError, MemoryError) as error:
        raise damaged(path, str(error), "a pickle of plain values") from error


def plain(path: Path) -> Path:
    """The path, if a plain file is there: to open a pipe would wait for ever. Raises OSError."""
    if not path.is_file():
        raise FileNotFoundError("no such file")
    return path


def damaged(path: Path, got: str, expected: str) -> FileFormatError:
    return FileFormatError(str(path), got=got, expected=expected)


class _Machine:
    """Runs a pickle's opcodes on a stack. ValueError stands for damage, UnsafeModelError for what is more than data."""

    def __init__(self, path: Path, storage: Callable[[str, str, int], _Storage] | None) -> None:
        self.path, self.storage = path, storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, Warning) as error:  # Warning: odd escapes, where they raise
            raise ValueError(f"a pickle that makes no sense ({type(error).__name__})") from error
        if len(self.stack) != 1 or isinstance(self.stack[0], (_Name, _Storage, _Kind)) or self.stack[0] is _MARK:
            raise ValueError("a pickle that makes no value")
        return self.stack[0]

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            if type(argument) is int and argument.bit_length() > _LONGEST:
                raise ValueError(f"an integer of {argument.bit_length()} bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._marked() if name == "TUPLE" else self._pop(int(name[5:]))))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else self._pop(1)
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else self._pop(2)
            self._set(self._top(dict), items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._global(argument if name == "GLOBAL" else " ".join(self._pop(2)))
        elif name == "BINPERSID" and self.storage is not None:
            stack.append(self._persistent(*self._pop(1)))
        elif name == "REDUCE":
            stack.append((self._reduce if self.storage is not None else self._reduce_value)(*self._pop(2)))
        elif name == "BUILD" and isinstance(stack[-2], _Kind):
            (state,) = self._pop(1)
            _version, stack[-1].order, *_fields = state
        else:
            raise self._unsafe(f"a pickle with the instruction {name}")

    def _top(self, kind: type = object) -> Any:
        if self.stack[-1] is _MARK or not isinstance(self.stack[-1], kind):
            raise ValueError("a pickle that fills what is no container")
        return self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise ValueError("a pickle that takes more than it has put")
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    @staticmethod
    def _set(into: dict[Any, Any], items: list[Any]) -> None:
        keys = items[::2]
        if len(items) % 2 or not all(isinstance(key, (str, int)) for key in keys):  # a deep tuple as a key would overrun the stack
            raise ValueError("a pickle with a dict of odd keys")
        into.update(zip(keys, items[1::2]))

    def _global(self, name: str) -> None:
        if name not in (_NAMES if self.storage is not None else (*_SCALARS, _DTYPE)):
            raise self._unsafe(f"a pickle that asks for '{name}'")
        self.stack.append(_Name(name))

    def _persistent(self, key: Any) -> _Storage:
        assert self.storage is not None
        tag, kind, name, _device, size = key
        if tag != "storage" or not isinstance(kind, _Name) or kind.name not in _STORAGES or type(name) is not str or type(size) is not int:
            raise ValueError("a storage that is none")
        return self.storage(name, _STORAGES[kind.name], size)

    def _reduce(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, _Name) else None
        if name == _ORDERED and arguments == ():
            return {}
        if name != _REBUILD or type(arguments) is not tuple:
            raise self._unsafe("a pickle that calls what is no tensor")
        storage, offset, size, stride = arguments[:4]
        return _tensor(storage, offset, size, stride)

    def _reduce_value(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, _Name) else None
        if name is None or type(arguments) is not tuple:
            raise self._unsafe("a pickle that calls what is no number")
        if name == _DTYPE:
            return _Kind(arguments[0])
        kind, data = arguments
        code = _SCALAR.fullmatch(kind.code) if isinstance(kind, _Kind) else None
        if code is None:
            raise self._unsafe("a numpy scalar that is no integer and no string")
        return _scalar(code[1], int(code[2]), kind.order, data)

    def _unsafe(self, got: str) -> UnsafeModelError:
        hint = "It was not run. Do not load this file with other software."
        return UnsafeModelError(str(self.path), got=got, expected="tensors and plain values alone", hint=hint)


def _scalar(kind: str, size: int, order: Any, data: Any) -> int | str:
    """The integer or string of a numpy scalar, from its bytes."""
    little = order != ">"
    if order not in ("<", ">", "|") or type(data) is not bytes or len(data) != (size * 4 if kind == "U" else size):
        raise ValueError(f"a damaged numpy scalar {kind}{size}")
    if kind == "U":
        return data.decode("utf-32-le" if little else "utf-32-be").rstrip("\0")
    return int.from_bytes(data, "little" if little else "big", signed=kind == "i")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> NDArray[Any]:
    if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > 8:
        raise ValueError("a tensor that is none")
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
        raise ValueError("a tensor of sizes that are none")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else offset - 1
    if last >= storage.size or count > storage.size:  # also a tensor that repeats what it stores, and so may be of any size
        raise ValueError("a tensor that reaches beyond its storage")
    if not count:
        return np.empty(size, storage.dtype)
    flat = np.frombuffer(storage.data, storage.dtype, storage.size)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, [step * storage.dtype.itemsize for step in stride], writeable=False)


def write_torch(path: str | Path, value: NDArray[Any] | Sequence[NDArray[Any]]) -> None:
    """Writes an array, or a tuple of arrays, so that torch.load reads it: float32, float16, int64, int32 or uint8. Deterministic."""
    arrays = [value] if isinstance(value, np.ndarray) else list(value)
    if any(array.dtype.str[1:] not in _WRITTEN for array in arrays):
        raise InputError("write_torch", got=", ".join(str(array.dtype) for array in arrays), expected=", ".join(_WRITTEN))
    body = b"".join(_pickled(str(key), array) for key, array in enumerate(arrays))
    program = b"\x80\x02" + (body if isinstance(value, np.ndarray) else b"(" + body + b"t") + b"."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("data.pkl", program), ("byteorder", b"little")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
        for key, array in enumerate(arrays):
            with archive.open(zipfile.ZipInfo(f"archive/data/{key}"), "w", force_zip64=array.nbytes >= 1 << 31) as file:
                file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def _pickled(key: str, array: NDArray[Any]) -> bytes:
    """The call of _rebuild_tensor_v2 that makes a contiguous tensor from storage `key`."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    kind = _WRITTEN[array.dtype.str[1:]]
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(array.size) + b"tQ"
    shape, steps = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (array.shape, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + shape + steps + b"\x89ccollections\nOrderedDict\n)RtR"
