"""Bound the memory that a graph of ONNX Runtime can take."""

from __future__ import annotations

from functools import cache
from typing import Any

MAX_RUN_BYTES = 4 << 30
"""Memory that the runs of all sessions in a process may take together, in addition to the weights."""

OUT_OF_MEMORY = ("Available memory of", "Failed to allocate", "would require more than", "bad_alloc")
"""Parts of ONNX Runtime's messages about memory."""


def bounded_session_options(threads: int, *, is_foldable: bool) -> Any:
    """Return ``onnxruntime.SessionOptions`` with which no graph can take all memory of the machine.

    All sessions of the process share one arena. A run that needs more than :data:`MAX_RUN_BYTES` raises an error of
    ONNX Runtime that :func:`is_out_of_memory` recognises. Constants are folded when the session is made only if that
    is known to need little memory, because folding allocates outside of the arena. Weights are outside of the arena,
    too; the size of the file bounds them.

    Args:
        threads: number of threads inside an operator.
        is_foldable: whether constants may be folded, see :class:`~reactometer.inference.graph_check.GraphSummary`.
    """
    import onnxruntime

    _register_arena()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised, and need not be printed, too
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file's first bytes say
    if not is_foldable:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    return options


def bounded_run_options() -> Any:
    """Return ``onnxruntime.RunOptions`` that return unused memory to the arena after each run.

    Without them, a sequence of growing inputs fills the arena with free blocks that are too small for the next input.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of ONNX Runtime says that a run needs more than :data:`MAX_RUN_BYTES`."""
    return any(words in str(error) for words in OUT_OF_MEMORY)


@cache
def _register_arena() -> None:
    """Register the CPU arena of the process. See OrtArenaCfg, https://onnxruntime.ai/docs/get-started/with-c.html."""
    import onnxruntime as ort

    exact, default = 1, -1  # extend the arena by the requested size, not to the next power of two
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(MAX_RUN_BYTES, exact, default, default))
