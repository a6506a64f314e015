"""The way from a call to its armed plan and back: what the native dispatcher and Python owe each other.

The dispatcher (``csrc/torch/dispatcher.cpp``) takes a call, reads torch's modes, describes the arguments, looks the
description up, begins a run, calls the function and ends the run, without Python. It has one owner, which it does not
keep alive, and comes to it with four questions only:

``_think(call)``
    No group is armed for the call, or its group wants attention and the call is due. The owner makes the call, with
    ``call()`` or ``dispatcher.replay(call, group)``, and may do what it likes before and after. ``call.args``,
    ``call.kwargs`` and ``call.variant`` say what it is, ``call.kind`` is a number that calls which are alike in
    everything share. What comes back is ignored: the dispatcher knows what the function returned or raised, and that is
    what the program gets.
``_deviated(group, kind, num_unforeseen, num_as_planned)``
    A run asked upstream for something, after ``num_as_planned`` runs of the group that did not. Whether the group wants
    attention from now on.
``_ran(group, num_as_planned)``
    So many runs of the group went as planned since this was last said. Whether the group wants attention from now on.
``_is_due(group, kind)``
    The group wants attention: whether this call is the one to think about.

The owner tells the dispatcher what to do with calls:

``arm(call, group, ...)``
    Calls like this one are replayed with the plan of the group: all that are alike in everything, or, ``is_family``, in
    everything but sizes that the bounds cover. Replaces what was said of the group before.
``pass_on(call, group, reason, is_family)``
    Calls like this one go straight to the function, and are counted under that reason. Where nothing is armed and all
    calls did so for a while, most are not even looked up.
``disarm(group)``, ``clear()``
    Think about such calls again.

What is remembered is one entry a group, so it is bounded by the owner's number of groups, whatever calls come.

Nothing of ours keeps the program's function from being called, or its result from the program: what ``_think`` or
another question raises is logged. What a signal handler of the program raises meanwhile, and what is no ``Exception``
(Ctrl-C), is the program's and goes there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch

from memomalloc.runtime import extension
from memomalloc.runtime.calls.signatures import Sizes, describe
from memomalloc.runtime.events import report
from memomalloc.runtime.faults import is_of_the_program
from memomalloc.runtime.switch import switch

if TYPE_CHECKING:
    from memomalloc._runtime import Dispatcher


def dispatcher_of(
    owner: Any, function: Callable[..., Any], shapes: str, module_call: tuple[weakref.ref[Any], type] | None = None
) -> Dispatcher:
    """A dispatcher of calls of ``function``.

    Args:
        owner: answers the questions of this module's docstring; is not kept alive.
        function: what is called.
        shapes: a policy, see ``shape_policy``.
        module_call: where the function is the call of a module as a class has it: the module, and the class.

    Raises:
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    module, kind = module_call or (None, None)
    return extension.load().Dispatcher(  # type: ignore[no-any-return]
        function,
        module,
        kind,
        owner,
        shapes,
        _unusual,
        is_of_the_program,
        _report_fault,
        switch,
        vars(torch.compiler),
        torch._C._dynamo.eval_frame.set_eval_frame,
    )


def _unusual(value: Any, by_value: bool) -> tuple[Hashable, Hashable, list[int]]:
    """A value that the dispatcher cannot describe: exactly, without its sizes, and these sizes."""
    exact = describe(value)
    if by_value:
        return exact, exact, []
    sizes = Sizes(_nothing)
    return exact, describe(value, sizes), sizes.values


def _nothing(size: int) -> Hashable:
    return None


_num_faults: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def _report_fault(owner: Any, fault: BaseException) -> None:
    num_faults = _num_faults.get(owner, 0) + 1 if owner is not None else 1
    if owner is not None:
        _num_faults[owner] = num_faults
    if num_faults.bit_count() != 1:  # the 1st, 2nd, 4th, 8th: a log must not grow with the traffic
        return
    name = getattr(owner, "name", "a model")
    reason = f"{type(fault).__name__}: {fault}"
    text = f"{num_faults} times something failed while a call of {name} was learned; the call was made. Last: {reason}"
    report("fault", name, text, reason=reason, num_faults=num_faults)
