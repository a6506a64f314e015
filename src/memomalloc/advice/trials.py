"""Changes of a whole program that no trace can foretell: the program is run with them."""

from __future__ import annotations

from dataclasses import dataclass

from memomalloc.advice.proposal import ROUNDED_RESULTS, SAME_RESULTS

#: The program without a change.
AS_IT_IS = "as it is"
INFERENCE_MODE = "inference mode"
CHANNELS_LAST = "channels last"
PACKED_WEIGHTS = "packed weights"
HALF_BATCH = "half batch"


@dataclass(frozen=True)
class Trial:
    """A change that a program is run with.

    Attributes:
        text: what to do, in a sentence.
        alters: what it does to results and speed.
    """

    text: str
    alters: str


#: By name. ``memomalloc.trial`` runs them; a test sees that it knows them all.
TRIALS = {
    INFERENCE_MODE: Trial(
        "call the model under torch.inference_mode(): autograd keeps activations for a backward pass",
        f"{SAME_RESULTS}, but without gradients; speed gains",
    ),
    CHANNELS_LAST: Trial(
        "call the model in channels last: model.to(memory_format=torch.channels_last), and its images, too",
        f"{ROUNDED_RESULTS}; speed gains as a rule",
    ),
    PACKED_WEIGHTS: Trial(
        "pack the weights of convolutions once (torch.compile with freezing, or mkldnn._convolution_pointwise), in "
        "channels last: oneDNN reorders them in every call",
        f"{ROUNDED_RESULTS}; speed gains; weights must not change any more",
    ),
    HALF_BATCH: Trial(
        "cut the batch in two: call the model with each half, and torch.cat what it returns",
        f"{ROUNDED_RESULTS}, and differ more where the model compares the items of a batch; speed may be lost",
    ),
}
