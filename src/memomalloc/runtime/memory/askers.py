"""Who asks for a tensor, as the native runtime tells it during a replay: a tag of the operators that run."""

from __future__ import annotations

from memomalloc.data.origin import Origin
from memomalloc.runtime import extension

#: The operator of a buffer that no operator of torch asked for, such as one that compiled code allocates by itself.
NO_OPERATOR = "memomalloc::direct"
#: The function of ATen, no operator itself, that makes a tensor of a Python number for the operator that comes next.
SCALAR_OPERATOR = "aten::wrapped_scalar_tensor"
#: What the operators that compiled code names begin with.
COMPILED_KERNEL = "inductor::"


def is_without_operator(origin: Origin) -> bool:
    """Whether no operator of torch ran when the buffer was asked for, and its name is from elsewhere."""
    return origin.operator in (NO_OPERATOR, SCALAR_OPERATOR) or origin.operator.startswith(COMPILED_KERNEL)


def asker_of(origin: Origin | None) -> int:
    """The tag that the native runtime has while the operators of an origin run."""
    if origin is None or is_without_operator(origin):
        return 0
    return int(extension.install().asker_of(origin.operators))
