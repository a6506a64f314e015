"""Run a program that is watched: ``python patient.py OPTIONS FOLDER STATUS CONTROL PROGRAM ...``.

The watching is done from outside. Here is only what cannot be: a thread that waits for questions, and a word to whoever
watches when the program begins, has imported torch, failed, and has ended. Nothing is imported for it that the program
does not use, unless an option asks for a remedy.
"""

from __future__ import annotations

import atexit
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

TYPE_CHECKING = False  # of typing, which is not imported for it
if TYPE_CHECKING:
    from memomalloc.runtime.learning.recorder import Recording

#: Events, as lines in the pipe STATUS; an error's text follows its word.
BEGAN, TORCH, FAILED, ENDED = "began", "torch", "failed", "ended"
#: Remedies that are tried inside the process.
OPTIMIZE, NO_GRAD, COLLECT = "optimize", "no-grad", "collect"
#: Not a remedy: tensors are recorded, and who reads them.
RECORD = "record"
#: The file that they are written to, in FOLDER.
TRACE = "trace.jsonl.gz"

_FOLDER = os.path.dirname(os.path.abspath(__file__))
#: With `COLLECT`, cycles are collected so often.
_COLLECT_PERIOD_S = 0.5


def _load(path: str) -> ModuleType:
    name = "_memomalloc_" + os.path.basename(path).removesuffix(".py")
    loader = SourceFileLoader(name, os.path.join(_FOLDER, path))
    module = ModuleType(name)
    module.__file__ = loader.path
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def main() -> None:
    """Run the program that the command line names."""
    options, folder, status, control, is_module, program, *arguments = sys.argv[1:]
    told, wanted = int(status), options.split(",")
    for number in (told, int(control)):
        os.set_inheritable(number, False)
    pid = os.getpid()

    def tell(event: str, text: str = "") -> None:
        if os.getpid() == pid:  # and not a fork of the program's
            try:  # noqa: SIM105 - without another import
                os.write(told, f"{event} {' '.join(text.split())}\n".encode())
            except OSError:
                pass  # nobody watches any more

    def end() -> None:
        if os.getpid() == pid:
            tell(ENDED)
            os.read(int(control), 1)  # until it was looked at, or nobody watches

    atexit.register(end)  # first, so that it is called last
    _load("listener.py").listen(folder)
    _load("../runtime/torch_import.py").call_after_torch_import(lambda: tell(TORCH))
    running = _load("../running.py")
    recording = _prepare(wanted)
    tell(BEGAN)
    try:
        running.run_program(program, arguments, is_module=is_module == "m")
    except SystemExit as exit_:
        if exit_.code not in (None, 0):
            tell(FAILED, f"it ended with status {exit_.code}")
        raise
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # whoever watches ended it
    except BaseException as error:
        tell(FAILED, f"{type(error).__name__}: {error}")
        raise
    finally:
        if recording is not None:
            recording.__exit__(None, None, None)
            from memomalloc.data.trace_file import write_trace

            write_trace(recording.trace, os.path.join(folder, TRACE))


def _prepare(wanted: list[str]) -> Recording | None:
    """Begin what the options ask for; a recording that is to be ended, if that is one of them."""
    if COLLECT in wanted:
        import _thread
        import gc
        import time

        def collect() -> None:
            while True:
                time.sleep(_COLLECT_PERIOD_S)
                gc.collect()

        _thread.start_new_thread(collect, ())
    if OPTIMIZE in wanted:
        from memomalloc.runtime.torch_import import call_after_torch_import

        def optimize() -> None:
            from memomalloc.runtime.models.outermost_calls import optimize_outermost_calls

            optimize_outermost_calls()

        call_after_torch_import(optimize)
    if NO_GRAD in wanted:
        from memomalloc.runtime.torch_import import call_after_torch_import

        def without_gradients() -> None:
            import torch

            torch.set_grad_enabled(False)

        call_after_torch_import(without_gradients)
    if RECORD in wanted:
        import memomalloc

        return memomalloc.record(threads="all", calls=True).__enter__()
    return None


if __name__ == "__main__":
    main()
