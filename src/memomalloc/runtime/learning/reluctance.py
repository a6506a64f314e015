"""The one rule by which learning becomes rare."""

from __future__ import annotations


class Reluctance:
    """How much must speak for a step before it is taken.

    What speaks for it is gathered until it reaches a price. Each step makes the next dearer; each in vain makes it
    dearer by twice as much as the one before; after so many there are no more.
    """

    #: Doubling ends here: what is so dear is never taken again.
    _MAX_DOUBLINGS = 20

    def __init__(self, first_price: float, *, dearer_by: float = 0.0, most: int | None = None) -> None:
        """Start with nothing gathered.

        Args:
            first_price: of the first step.
            dearer_by: what a step adds to the price of the next.
            most: steps there are; None: any number.
        """
        self._first_price = first_price
        self._dearer_by = dearer_by
        self._most = most
        self._num_steps = 0
        self._num_in_vain = 0
        self._gathered = 0.0

    @property
    def price(self) -> float:
        """What must be gathered for the next step."""
        return self._first_price + self._dearer_by * (self._num_steps + (1 << self._num_in_vain) - 1)

    @property
    def are_left(self) -> bool:
        """Whether there are more steps."""
        return self._most is None or self._num_steps + self._num_in_vain < self._most

    @property
    def is_untried(self) -> bool:
        """Whether no step was taken so far."""
        return self._num_steps + self._num_in_vain == 0

    def gather(self, amount: float) -> bool:
        """So much speaks for a step; whether it is to be taken."""
        self._gathered += amount
        return self.are_left and self._gathered >= self.price

    def calm(self) -> None:
        """What was gathered no longer counts."""
        self._gathered = 0.0

    def step(self, *, in_vain: bool = False) -> None:
        """The step was taken."""
        if in_vain:
            self._num_in_vain = min(self._num_in_vain + 1, self._MAX_DOUBLINGS)
        else:
            self._num_steps += 1
        self._gathered = 0.0
