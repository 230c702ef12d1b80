"""rlarcade.learning.cuda_graph without a GPU: what is captured, and what replays are fed."""

from types import SimpleNamespace

import pytest
import torch

from rlarcade.learning import cuda_graph
from rlarcade.learning.cuda_graph import CudaGraph


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs of the CPU: a capture notes the function and computes nothing, a replay calls it.

    Returns the captures, the function's arguments each.
    """
    captures = []

    def called(graph, inputs):
        return graph._function(*inputs)

    def captured(graph, inputs):
        own = cuda_graph.copy.deepcopy(inputs)
        outputs = tuple(torch.full_like(each, torch.nan) for each in own[0])
        captures.append(own)

        def replay():
            for kept, new in zip(outputs, graph._function(*own), strict=True):
                kept.copy_(new)

        return cuda_graph._Capture(own, outputs, SimpleNamespace(replay=replay))

    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(CudaGraph, "_called", called)
    monkeypatch.setattr(CudaGraph, "_captured", captured)
    return captures


def doubled(pair, flag):
    del flag
    return tuple(2 * each for each in pair)


def test_every_call_computes_its_own_inputs_and_the_fourth_is_captured(graphs):
    graph, given = CudaGraph(doubled, lambda pair, flag: pair), None
    for call in range(8):
        given = (torch.full((3,), float(call)), torch.full((2, 2), -float(call)))
        one, other = graph(given, "flag")
        assert one.tolist() == [2.0 * call] * 3
        assert other.tolist() == [[-2.0 * call] * 2] * 2
        assert len(graphs) == (call >= 3)
    assert all(kept is not new for kept, new in zip(graphs[0][0], given, strict=True))


def test_inputs_of_other_shapes_are_captured_apart(graphs):
    graph = CudaGraph(doubled, lambda pair, flag: pair)
    for call in range(12):
        size = 1 + call % 2  # one number would fit into the place of two
        (out,) = graph((torch.full((size,), float(call)),), None)
        assert out.tolist() == [2.0 * call] * size
    assert [own[0][0].shape for own in graphs] == [(1,), (2,)]


def test_what_a_replay_returns_is_overwritten_by_the_next(graphs):
    graph = CudaGraph(doubled, lambda pair, flag: pair)
    outputs = [graph((torch.tensor([float(call)]),), None)[0] for call in range(6)]
    assert [out.item() for out in outputs] == [0, 2, 4, 10, 10, 10]
