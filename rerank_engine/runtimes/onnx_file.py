"""What an ONNX file says of itself, read before any runtime opens it: which operators it holds and which other files it points to.

The protobuf package does the parsing. Only the fields that are read here are declared (numbers from onnx.proto3), the rest is skipped.
"""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorruptModelError, MissingDependency, UnsafeModelError

# Operators that quantise activations while running, with one scale for the whole tensor: rows of a batch then change each other.
DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})

# message -> field: (number, type, repeated); types: 9 string, 12 bytes skipped, otherwise the name of a message
_SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Model": {"graph": (7, "Graph", False), "training_info": (20, "Training", True), "functions": (25, "Function", True)},
    "Training": {"initialization": (1, "Graph", False), "algorithm": (2, "Graph", False)},
    "Function": {"node": (7, "Node", True), "attribute_proto": (11, "Attribute", True)},
    "Graph": {
        "node": (1, "Node", True),
        "initializer": (5, "Tensor", True),
        "sparse_initializer": (15, "SparseTensor", True),
        "input": (11, "Value", True),
    },
    "Value": {"name": (1, "string", False)},
    "Node": {"op_type": (4, "string", False), "attribute": (5, "Attribute", True)},
    "Attribute": {
        "t": (5, "Tensor", False),
        "g": (6, "Graph", False),
        "tensors": (10, "Tensor", True),
        "graphs": (11, "Graph", True),
        "sparse_tensor": (22, "SparseTensor", False),
        "sparse_tensors": (23, "SparseTensor", True),
    },
    "SparseTensor": {"values": (1, "Tensor", False), "indices": (2, "Tensor", False)},
    "Tensor": {"external_data": (13, "Entry", True)},
    "Entry": {"key": (1, "string", False), "value": (2, "string", False)},
}


@dataclass(frozen=True)
class OnnxFile:
    operators: frozenset[str]
    external: tuple[str, ...]  # the locations of external data, as written in the file
    inputs: tuple[str, ...] = ()  # of the graph, by name

    @property
    def batch_sensitive(self) -> bool:
        return bool(self.operators & DYNAMIC)


def inspect(path: Path, data: bytes) -> OnnxFile:
    """Parses the bytes of a .onnx file. Raises CorruptModelError."""
    model = _model_class()()
    try:
        model.ParseFromString(data)
    except Exception as error:
        raise CorruptModelError(str(path), got=f"a file that does not parse ({error})", expected="an ONNX model") from error
    if not model.graph.node:
        raise CorruptModelError(str(path), got="a file without a graph", expected="an ONNX model")
    operators: set[str] = set()
    external: dict[str, None] = {}
    _walk(model, operators, external)
    return OnnxFile(frozenset(operators), tuple(external), tuple(entry.name for entry in model.graph.input))


def check_external(path: Path, locations: tuple[str, ...]) -> None:
    """Raises UnsafeModelError unless every location is a plain file below the model's folder, reached without links.

    Such paths have been used again and again to read any file of the machine (CVE-2022-25882, CVE-2024-27318 and others).
    """
    folder = path.parent.resolve()
    for location in locations:
        where = f"{path}: external data at '{location}'"
        parts = Path(location).parts
        # "*": onnxruntime takes the location "*/_ORT_MEM_ADDR_/*" for an address in this process's memory
        if not parts or os.path.isabs(location) or ".." in parts or any(c in location for c in "\\\0*"):
            raise UnsafeModelError(where, got="a path that can leave the model's folder", expected="a relative path below it")
        for depth in range(1, len(parts) + 1):
            piece = folder.joinpath(*parts[:depth])
            try:
                mode = piece.lstat()
            except OSError as error:
                raise CorruptModelError(where, got=str(error), expected="a file beside the model") from error
            if stat.S_ISLNK(mode.st_mode):
                hint = "Download it with real files (a hub cache holds links): hf download NAME --local-dir FOLDER."
                raise UnsafeModelError(where, got=f"a symbolic link ({piece.name})", expected="a plain file", hint=hint)
        if not stat.S_ISREG(mode.st_mode) or mode.st_nlink > 1:
            raise UnsafeModelError(where, got="a directory, a device or a hard link", expected="a plain file of the model's own")


def _walk(message: Any, operators: set[str], external: dict[str, None]) -> None:
    """Visits every message below; a file may nest graphs deeply, so this keeps a stack of its own."""
    stack = [message]
    while stack:
        current = stack.pop()
        kind = current.DESCRIPTOR.name
        if kind == "Node":
            operators.add(current.op_type)
        elif kind == "Tensor":
            external.update((entry.value, None) for entry in current.external_data if entry.key == "location")
        for field, value in current.ListFields():
            if field.message_type is not None and kind != "Tensor":
                stack.extend(value if _SCHEMA[kind][field.name][2] else [value])


@functools.cache
def _model_class() -> Any:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "ONNX models need the package protobuf", hint="pip install onnxruntime tokenizers protobuf (the extra [cpu])."
        ) from error
    file = descriptor_pb2.FileDescriptorProto(name="rerank_engine/onnx_subset.proto", package="rerank_engine.onnx_subset", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            entry = message.field.add(name=field, number=number, label=3 if repeated else 1, type=9 if kind == "string" else 11)
            if kind != "string":
                entry.type_name = f".{file.package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.Model"))
