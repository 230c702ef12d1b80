"""A function as one CUDA graph.

An update is hundreds of small kernels, and Python takes longer to start them than a large GPU to
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
    """A call on inputs of certain shapes: the memory that it reads and writes, and its kernels."""

    inputs: Any
    outputs: Any
    graph: torch.cuda.CUDAGraph


class CudaGraph(Generic[_Output, *_Inputs]):
    """A function that works on a GPU, and may change what lies there, called again and again.

    The first calls are made as they are, so that kernels are compiled and chosen. Then one is
    captured, and from then on it is replayed on new inputs: the function's Python no longer runs,
    so it may not decide anything that changes from call to call. What a capture is given is not
    computed by it, only by the replay that follows, so each call counts once.
    """

    def __init__(
        self,
        function: Callable[[*_Inputs], _Output],
        tensors: Callable[[*_Inputs], Iterable[Tensor]],
    ) -> None:
        """Captures nothing yet.

        Args:
            function: returns tensors, or a tuple of them.
            tensors: lists all tensors in its inputs, always in the same order.
        """
        self._function, self._tensors = function, tensors
        self._calls = Counter[tuple[torch.Size, ...]]()
        self._captures: dict[tuple[torch.Size, ...], _Capture] = {}
        # Autograd remembers on which stream a parameter was first used, and a capture must not
        # wait for another one.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, *inputs: *_Inputs) -> _Output:
        """Calls the function; what it returns is overwritten by the next call."""
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
        # cuBLAS keeps its memory for work, which whoever clears it would take away from the graph
        # (torch.compile does). Cleared first, it is taken from the graph's own memory.
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(graph, stream=self._stream):
            outputs = self._function(*own)
        torch._C._cuda_clearCublasWorkspaces()
        return _Capture(own, outputs, graph)
