"""ONNX models made ready for integers of four bits: opset 21, IR version 10."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, helper, inliner, version_converter

from metaq.errors import InputError

OPSET = 21  # the first whose DequantizeLinear takes integers of 4 and of 16 bits
IR_VERSION = 10  # the one that came with it

_SMALL_BYTES = 1024  # shapes, axes and scales of images, which a conversion may look at
_OWN_INPUTS = 4  # the first IR version in which initialisers need not be inputs too


def raise_opset(model: ModelProto, name: str) -> ModelProto:
    """The model for opset 21 and IR version 10, or for what it has if that is more; the argument may be changed.

    Where operators are others in opset 21, ONNX's own converter rewrites them. Values of large initialisers do not go
    through it. Inputs that only repeat an initialiser, as old models had to have them, are left out.

    Args:
        name: what errors call the model.

    Raises:
        InputError: the converter cannot rewrite an operator.
    """
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if version is None:
        model.opset_import.append(helper.make_opsetid("", OPSET))
    elif version < OPSET and _means_the_same(model, version):
        for entry in model.opset_import:
            entry.version = OPSET if entry.domain in ("", "ai.onnx") else entry.version
    elif version < OPSET:
        model = _converted(model, version, name)
    if model.ir_version < _OWN_INPUTS:
        _remove_inputs(model.graph, {tensor.name for tensor in model.graph.initializer})
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def subgraphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and all those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from subgraphs(inner)


def _means_the_same(model: ModelProto, version: int) -> bool:
    """Whether every operator of the standard is the same in opset 21. Functions have opsets of their own: no."""
    nodes = [node for graph in subgraphs(model.graph) for node in graph.node]
    operators = {node.op_type for node in nodes if node.domain in ("", "ai.onnx")}
    same = all(_since(operator, version) == _since(operator, OPSET) is not None for operator in operators)
    return same and not model.functions


def _since(operator: str, version: int) -> int | None:
    """The opset that brought what the operator is in this one; None if it has no such operator."""
    try:
        return int(onnx.defs.get_schema(operator, version, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _converted(model: ModelProto, version: int, name: str) -> ModelProto:
    """The model after ONNX's converter, checked, with every initialiser that it had."""
    values = list(model.graph.initializer)
    set_aside = _set_values_aside(model.graph)
    try:
        inlined = inliner.inline_local_functions(model) if model.functions else model
        converted = version_converter.convert_version(inlined, OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter's and the checker's have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = f"export it again with opset {OPSET}"
        raise InputError(
            f"{name}: expected a model of opset {OPSET}, or one to convert, found opset {version} ({reason}); {remedy}"
        ) from None
    _remove_inputs(converted.graph, set_aside)
    own = {tensor.name for tensor in values}
    new = [tensor for tensor in converted.graph.initializer if tensor.name not in own]
    del converted.graph.initializer[:]
    converted.graph.initializer.extend([*values, *new])
    return converted


def _set_values_aside(graph: GraphProto) -> set[str]:
    """Make inputs of large initialisers; returns the names of those that were none."""
    small = [tensor for tensor in graph.initializer if tensor.ByteSize() <= _SMALL_BYTES]
    large = [tensor for tensor in graph.initializer if tensor.ByteSize() > _SMALL_BYTES]
    inputs = {value.name for value in graph.input}
    added = [tensor for tensor in large if tensor.name not in inputs]
    del graph.initializer[:]
    graph.initializer.extend(small)
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in added
    )
    return {tensor.name for tensor in added}


def _remove_inputs(graph: GraphProto, names: set[str]) -> None:
    kept = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(kept)
