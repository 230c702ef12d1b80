"""Runs a function as one CUDA graph.

An update is hundreds of small kernels. Python takes longer to start them than a large GPU takes to
run them. A graph starts them all at once.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, TypeVarTuple

import torch
from torch import Tensor

_Inputs = TypeVarTuple("_Inputs")
_Output = TypeVar("_Output")

_WARM_UP_CALLS = 3


@dataclass(frozen=True, slots=True)
class _Capture:
    """A captured call for certain input shapes: its inputs, outputs and graph of kernels."""

    inputs: Any
    outputs: Any
    graph: torch.cuda.CUDAGraph


class CudaGraph(Generic[_Output, *_Inputs]):
    """A GPU function that is called many times and may change tensors on the GPU.

    The first calls run normally, so that kernels are compiled and chosen. Then one call is
    captured; from then on the capture is replayed on new inputs. In a replay the function's Python
    does not run, so it must not make decisions that differ between calls. Capturing computes
    nothing; the replay that follows does. So each call is computed once.
    """

    def __init__(
        self,
        function: Callable[[*_Inputs], _Output],
        tensors: Callable[[*_Inputs], Iterable[Tensor]],
    ) -> None:
        """Captures nothing yet.

        Args:
            function: returns a tensor, or a tuple of tensors.
            tensors: lists all tensors in the function's inputs, always in the same order.
        """
        self._function, self._tensors = function, tensors
        self._calls = Counter[tuple[torch.Size, ...]]()
        self._captures: dict[tuple[torch.Size, ...], _Capture] = {}
        # All calls use one stream: autograd remembers on which stream a parameter was first used,
        # and a capture must not wait for another stream.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, *inputs: *_Inputs) -> _Output:
        """Calls the function. The next call overwrites the tensors that this one returns."""
        given = [*self._tensors(*inputs)]
        shapes = tuple(tensor.shape for tensor in given)
        self._calls[shapes] += 1
        if self._calls[shapes] <= _WARM_UP_CALLS:
            return self._called(inputs)
        if shapes not in self._captures:
            self._captures[shapes] = self._captured(inputs)
        capture = self._captures[shapes]
        for kept, new in zip(self._tensors(*capture.inputs), given, strict=True):
            kept.copy_(new)
        capture.graph.replay()
        outputs: _Output = capture.outputs
        return outputs

    def _called(self, inputs: tuple[*_Inputs]) -> _Output:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self._function(*inputs)
        current.wait_stream(self._stream)
        return outputs

    def _captured(self, inputs: tuple[*_Inputs]) -> _Capture:
        own = copy.deepcopy(inputs)
        graph = torch.cuda.CUDAGraph()
        # cuBLAS caches a workspace. If it is freed later (torch.compile does that), the graph reads
        # freed memory. Cleared before the capture, it is allocated in the graph's own memory.
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(graph, stream=self._stream):
            outputs = self._function(*own)
        torch._C._cuda_clearCublasWorkspaces()
        return _Capture(own, outputs, graph)
