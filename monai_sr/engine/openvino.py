"""Networks computed by OpenVINO, in float32 or int8."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import give_memory_back
from .devices import thread_count
from .graphs import Ranges, build_graph, openvino
from .streaming import StreamedEngine
from .weights import Weights

if TYPE_CHECKING:
    from torch import nn

GRAPHS = 8
"""Maximum number of compiled graphs: two for each width of a strip."""


class OpenVinoEngine(StreamedEngine):
    """A ResidualNet or PyramidNet computed by OpenVINO on the CPU, in float32 or int8.

    Args:
        network: in eval mode on the CPU, in float32, or its weights. They must not change afterwards.
        ranges: largest magnitudes of each tensor that is quantized to 8 bits, one for each channel, by
            its name, see :mod:`monai_sr.engine.int8`; None to compute in float32.
    """

    def __init__(self, network: nn.Module | Weights, *, ranges: Ranges | None = None) -> None:
        openvino()
        give_memory_back()
        super().__init__(network, "float32" if ranges is None else "int8")
        self.ranges = ranges
        self._graphs: dict[tuple[Any, ...], _Compiled] = {}

    def with_network(self, network: nn.Module) -> OpenVinoEngine:
        """See :meth:`Engine.with_network`; in int8 with the ranges of the features of the first network."""
        return OpenVinoEngine(network, ranges=self.ranges)

    def block(self, shape: tuple[int, ...], levels: int, *, lag: int, edge: bool) -> _Compiled:
        """See :meth:`StreamedEngine.block`; the compiled graphs of the last few sizes are kept."""
        threads = thread_count()
        key = (shape, levels, edge, threads)
        if key not in self._graphs:
            if len(self._graphs) >= GRAPHS:
                self._graphs.pop(next(iter(self._graphs)), None)
            model = build_graph(self.weights, levels, shape, self.ranges, lag=lag if edge else None)
            self._graphs[key] = _Compiled(model, threads, edge=edge)
        return self._graphs[key]

    def prepare(self, shape: tuple[int, ...], levels: int, *, lag: int) -> None:
        """See :meth:`StreamedEngine.prepare`; both graphs are compiled at once, each on one processor."""
        if thread_count() > 1:
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(lambda edge: self.block(shape, levels, lag=lag, edge=edge), (True, False)))

    def forget(self) -> None:
        self._graphs.clear()


class _Compiled:
    """A graph that is ready to run; see :class:`monai_sr.engine.streaming.Block`.

    Args:
        model: the graph.
        threads: number of threads.
        edge: whether its last input says which rows are inside the volume.
    """

    def __init__(self, model: Any, threads: int, *, edge: bool) -> None:
        how = {
            "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on some processors
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several jobs would use the same cores
        }
        self.edge = edge
        self._model = openvino().Core().compile_model(model, "CPU", how)
        self._request = self._model.create_infer_request()

    def __call__(self, part: np.ndarray, kept: list[np.ndarray], within: np.ndarray) -> np.ndarray:
        done = np.empty(tuple(self._model.outputs[-1].shape), np.float32)
        for index, given in enumerate([part, *kept, *([within] if self.edge else [])]):
            self._request.set_input_tensor(index, openvino().Tensor(given, shared_memory=True))
        # the new rows of a layer are computed after its old ones were read
        for index, made in enumerate([*kept, done]):
            self._request.set_output_tensor(index, openvino().Tensor(made, shared_memory=True))
        self._request.infer()
        return done

    def nothing(self) -> list[np.ndarray]:
        return [np.zeros(tuple(port.shape), port.element_type.to_dtype()) for port in self._model.outputs[:-1]]

    def release(self) -> None:
        self._model.release_memory()
