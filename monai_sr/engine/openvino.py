"""Networks computed by OpenVINO, a few rows of a volume at a time, so that nothing is computed twice.

A tile needs a halo as wide as the reach of the network; with twenty layers, the halo of a usual tile is larger
than the tile. Here every layer keeps the last two input rows along the first in-plane axis and continues with
the next rows. This needs no halo, and memory for a few rows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import give_memory_back
from ..networks import PyramidNet, ResidualNet
from ..slices import Banded
from . import Place, Progress
from .graphs import Ranges, build_graph, openvino
from .sizes import StreamedSizes
from .tiles import apply_in_rows, reach_of

ROWS = 8
"""Number of rows computed at once."""

GRAPHS = 8
"""Maximum number of compiled graphs: two for each width of a strip."""


def thread_count(root: Path = Path("/")) -> int:
    """Threads to compute with: torch's, which OMP_NUM_THREADS and jobs set, within the quota of a container."""
    threads = torch.get_num_threads()
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        threads = min(threads, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or no quota ("max")
        pass
    return threads


class OpenVinoEngine(StreamedSizes):
    """A ResidualNet or PyramidNet computed by OpenVINO on the CPU, in float32 or int8.

    Args:
        network: in eval mode on the CPU, in float32. Its weights must not change afterwards.
        ranges: largest magnitudes of each tensor that is quantized to 8 bits, one for each channel, by
            its name, see :mod:`monai_sr.engine.int8`; None to compute in float32.
    """

    device = torch.device("cpu")

    def __init__(self, network: ResidualNet | PyramidNet, *, ranges: Ranges | None = None) -> None:
        openvino()
        give_memory_back()
        super().__init__("float32" if ranges is None else "int8")
        self.network, self.ranges = network, ranges
        self.works_on, self.fold = str(network.works_on), int(getattr(network, "fold", 1))
        self._graphs: dict[tuple[Any, ...], _Compiled] = {}

    def reach(self, levels: int = 0) -> tuple[int, int]:
        return reach_of(self.network, levels)

    def propose(
        self, slices: Tensor, along: Tensor, *, levels: int = 0, tile_voxels: int, progress: Progress | None = None
    ) -> Iterator[tuple[Place, Tensor]]:
        """See :meth:`Engine.propose`; strips of rows, as wide as ``tile_voxels`` allows."""
        seen = Banded(along)
        return apply_in_rows(
            lambda read, rows: self._rows_of(read, rows, levels),
            lambda place: seen(slices[place]),
            (*slices.shape[:2], len(along)),
            halo=self.reach(levels)[0],
            strip_voxels=tile_voxels // 2**levels // ROWS,
            progress=progress,
        )

    def _rows_of(self, read: Callable[[slice], Tensor], rows: int, levels: int) -> Iterator[Tensor]:
        """The output of the network for a volume, a few rows at a time, in order.

        If a volume does not change from row to row, as in air of one value, the kept rows of the layers
        become constant. Then the output is the same too and is not computed again.

        Args:
            read: returns rows of the volume, (x, Y, Z).
            rows: number of rows of the volume.
            levels: how often the network doubles the slices.

        Yields:
            (x', Y, Z') the next rows.
        """
        lag, scale = self.reach(levels)[0], 2**levels
        graph, part, done, settled = None, np.empty(0), np.empty(0), False
        kept: list[np.ndarray] = []
        try:
            for start in range(0, rows + lag, ROWS):
                given = read(slice(min(start, rows), min(start + ROWS, rows)))
                before, part = part, self._block(given)
                inside = lag <= start <= rows - ROWS
                still = inside and np.array_equal(part, before)
                if not (still and settled):
                    last, graph = graph, self._graph(part.shape[1:4], levels, lag=lag, edge=not inside)
                    if last is not None and last is not graph:
                        last.release()
                    kept = kept or graph.nothing()
                    earlier = [array.copy() for array in kept] if still else []
                    done = graph(part, kept, _within(start - lag, lag + ROWS, rows))
                    settled = still and all(map(np.array_equal, kept, earlier))
                first = start - lag  # the first row of the output; rows outside the volume are discarded
                made = torch.from_numpy(done)[0, max(0, -first) : max(0, rows - first)]
                if len(made):
                    yield made.reshape(*made.shape[:2], -1)[..., : given.shape[2] * scale]
        except RuntimeError:  # possibly out of memory, so free it for narrower strips
            self._graphs.clear()
            raise
        finally:
            if graph is not None:
                graph.release()

    def _block(self, rows: Tensor) -> np.ndarray:
        """(1, ROWS, Y, Z/fold, fold) of (x, Y, Z): neighboring slices folded, and zeros behind the rows."""
        count, columns, slices = rows.shape
        block = torch.zeros(1, ROWS, columns, math.ceil(slices / self.fold) * self.fold)
        block[0, :count, :, :slices] = rows
        block[0, :count, :, slices:] = rows[..., -1:]
        return block.reshape(1, ROWS, columns, -1, self.fold).numpy()

    def _graph(self, shape: tuple[int, ...], levels: int, *, lag: int, edge: bool) -> _Compiled:
        """The compiled graph for rows of that size; the graphs of the last few sizes are kept."""
        threads = thread_count()
        key = (shape, levels, edge, threads)
        if key not in self._graphs:
            if len(self._graphs) >= GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            model = build_graph(self.network, levels, shape, self.ranges, lag=lag if edge else None)
            self._graphs[key] = _Compiled(model, threads, edge=edge)
        return self._graphs[key]


def _within(first: int, count: int, rows: int) -> np.ndarray:
    """(1, 1, count, 1, 1) 1 for rows inside the volume, 0 before and behind it."""
    index = np.arange(first, first + count)
    return ((index >= 0) & (index < rows)).astype(np.float32).reshape(1, 1, -1, 1, 1)


class _Compiled:
    """A graph that is ready to run.

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
        """The rows that are complete now. The kept rows of the layers are changed in place."""
        done = np.empty(tuple(self._model.outputs[-1].shape), np.float32)
        for index, array in enumerate([part, *kept, *([within] if self.edge else [])]):
            self._request.set_input_tensor(index, openvino().Tensor(array, shared_memory=True))
        # the new rows of a layer are computed after its old ones were read
        for index, array in enumerate([*kept, done]):
            self._request.set_output_tensor(index, openvino().Tensor(array, shared_memory=True))
        self._request.infer()
        return done

    def nothing(self) -> list[np.ndarray]:
        """The kept rows of the layers at the start: zeros."""
        return [np.zeros(tuple(port.shape), port.element_type.to_dtype()) for port in self._model.outputs[:-1]]

    def release(self) -> None:
        """Release the working memory of the layers until the next call."""
        self._model.release_memory()
