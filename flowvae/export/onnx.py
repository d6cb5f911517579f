"""ONNX graphs of a VAE: encoder, decoder and sampler, compared with torch before they are written."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvae.errors import InputError
from flowvae.export.graphs import GRAPHS, Graph
from flowvae.files import write_atomically
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE

NEEDED = ("onnx", "onnxruntime", "onnxscript")
MAX_DIFFERENCE = 1e-4  # between onnxruntime and torch; of numbers above 1, relative to them
TRACED, CHECKED = 3, (1, 5)  # numbers of images
SEED = 0
LOGGERS = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")


def check_installed() -> None:
    """Raise InputError if a package that writes or runs ONNX is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"{', '.join(missing)}: not installed; pip install 'flowvae[onnx]' installs what --onnx needs")


def write_graphs(vae: VAE, folder: Path, metadata: Mapping[str, str]) -> dict[str, float]:
    """Write `encoder.onnx`, `decoder.onnx` and `sampler.onnx`, in float32, for any number of images.

    Args:
        vae: the model, on a CPU.
        folder: which is created if necessary.
        metadata: that each file holds.

    Returns:
        The largest difference between onnxruntime and torch of each, relative to numbers above 1.

    Raises:
        InputError: a package is missing, a part cannot be exported, or onnxruntime computes something else.
    """
    check_installed()
    vae = plain_weights(vae).float().eval()
    differences = {}
    for name, kind in GRAPHS.items():
        graph = kind(vae).eval()
        try:
            with quiet():
                content = onnx_content(graph, {"graph": name, **metadata})
        except (RuntimeError, ValueError) as error:  # of torch's exporter, which has no common one
            raise InputError(f"{name}.onnx: cannot be exported ({reason(error)}); export without --onnx") from error
        differences[name] = max_difference(graph, content)
        if not differences[name] <= MAX_DIFFERENCE:
            raise InputError(
                f"{name}.onnx: differs from torch by {differences[name]:.1g}, more than {MAX_DIFFERENCE:g}; "
                f"export without --onnx"
            )
        write_atomically(folder / f"{name}.onnx", content)
    return differences


def onnx_content(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """A part as the bytes of an ONNX file, without paths of this machine."""
    from onnx_ir import Shape, to_proto
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    examples = graph.examples(TRACED, torch.Generator().manual_seed(SEED))
    program = torch.onnx.export(
        graph,
        examples,
        dynamo=True,
        dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in examples),  # refuses to fix N, unlike AUTO
        input_names=graph.inputs,
        output_names=graph.outputs,
        custom_translation_table={torch.ops.aten.linalg_solve_triangular.default: solve_triangular},
        verbose=False,
    )
    model = program.model  # type: ignore[union-attr]
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.update(metadata)
    model.doc_string = type(graph).__doc__
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = Shape(["N", *value.shape[1:]])
    return to_proto(model).SerializeToString(deterministic=True)


def solve_triangular(a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """What x of ONNX solves a x = b for an upper triangular a, which ONNX has no operator for.

        x = (b - (strictly upper part of a) x) / diagonal of a

    Repeated as often as a has rows, this is exact: each time, one more element is, from the last.
    """
    from onnxscript import opset18 as op

    if not upper or not left or unitriangular:
        raise ValueError("expected an upper triangular matrix on the left, with a diagonal")
    first: Any = op.Constant(value_ints=[1])  # diagonal above the main one
    last: Any = op.Constant(value_ints=[-1])  # axis
    above = op.Trilu(a, first, upper=1)
    diagonal = op.ReduceSum(op.Sub(a, above), last, keepdims=1)
    x = op.Div(b, diagonal)
    for _ in range(a.shape[-1] - 1):
        x = op.Div(op.Sub(b, op.MatMul(above, x)), diagonal)
    return x


def max_difference(graph: Graph, content: bytes) -> float:
    """The largest difference of the outputs that onnxruntime computes, relative to numbers above 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator, worst = torch.Generator().manual_seed(SEED + 1), 0.0
    for count in CHECKED:
        examples = graph.examples(count, generator)
        with torch.no_grad():
            expected = graph(*examples)
        given = {name: value.numpy() for name, value in zip(graph.inputs, examples)}
        for got, want in zip(session.run(list(graph.outputs), given), expected):
            worst = max(worst, difference(torch.from_numpy(got), want))
    return worst


def difference(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to numbers above 1; infinite where only one is finite, or the shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    gaps = (got - want).abs() / want.abs().clamp_min(1)
    return float(torch.where(got.isfinite() & want.isfinite(), gaps, same_class(got, want)).max())


def same_class(got: Tensor, want: Tensor) -> Tensor:
    """0 where both are the same infinity or both are no number, infinite elsewhere."""
    same = (got == want) | (got.isnan() & want.isnan())
    return torch.where(same, 0.0, float("inf"))


def reason(error: BaseException) -> str:
    """The first line of what began a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which exporters print no warnings of what concerns only their authors."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def metadata_of(vae: VAE, version: str, weights_sha256: str) -> dict[str, str]:
    """What each file holds of its origin."""
    return {
        "flowvae_version": version,
        "weights_sha256": weights_sha256,
        "config": json.dumps(vae.config.model_dump(mode="json")),
    }
