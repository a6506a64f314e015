"""What was seen while a program ran."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memomalloc.doctor.account import Account
from memomalloc.doctor.processes import PAGE_BYTES, Child, Sample


@dataclass(frozen=True)
class Look:
    """An account, and when it was taken.

    Attributes:
        at_s: since the program began.
        account: what was found.
    """

    at_s: float
    account: Account


@dataclass(frozen=True)
class Observation:
    """One run of a program.

    Attributes:
        samples: in order of time, since the program began; at least two.
        looks: accounts, in order of time; the last one is of the end, if the program was there to be looked at.
        torch_at_s: when it had imported torch; None if it did not.
        children: processes that it had started, when they had most memory.
        child_accounts: at the end, of the largest of those that were forked from it, by number.
        error: the exception that ended the program; empty if it ran through.
        was_stopped: whoever watched ended it, or would wait no longer.
    """

    samples: tuple[Sample, ...]
    looks: tuple[Look, ...] = ()
    torch_at_s: float | None = None
    children: tuple[Child, ...] = ()
    child_accounts: Mapping[int, Account] = field(default_factory=dict)
    error: str = ""
    was_stopped: bool = False

    #: Building models and warming up is no growth: it is counted from this share of the run on.
    WARM_UP_SHARE = 0.3
    #: The largest samples of the part around the warm-up's end, and of the last part, are compared.
    _AROUND_SHARE = 0.1

    @property
    def began_s(self) -> float:
        """When the program's own work began: what it imports is no growth, and its page faults are not its own."""
        return self.samples[0].at_s if self.torch_at_s is None else self.torch_at_s

    @property
    def last(self) -> Sample:
        """The last sample."""
        return self.samples[-1]

    @property
    def warm_s(self) -> float:
        """When the warm-up ended."""
        return self.began_s + self.WARM_UP_SHARE * (self.last.at_s - self.began_s)

    @property
    def account(self) -> Account | None:
        """The last one; None if the program could not be looked at."""
        return self.looks[-1].account if self.looks else None

    @property
    def warm_look(self) -> Look | None:
        """The account to count growth from: the first after the warm-up; the one after the imports if that is all."""
        if len(self.looks) < 2:
            return None
        *earlier, last = self.looks
        latest_s = self.began_s + 0.7 * (last.at_s - self.began_s)
        return next((look for look in earlier if self.warm_s <= look.at_s <= latest_s), earlier[-1])

    @property
    def account_growth(self) -> dict[str, int]:
        """By how much each part of the account grew after the warm-up; empty where that is not known."""
        account, warm = self.account, self.warm_look
        return account.growth_since(warm.account) if account and warm else {}

    @property
    def growth_bytes(self) -> int:
        """By how much physical memory grew after the warm-up: the most at the end over the most around the warm-up's
        end, so that a moment in a call does not count."""
        return self._most(1 - self._AROUND_SHARE, 1.0) - self._most(
            self.WARM_UP_SHARE - self._AROUND_SHARE, self.WARM_UP_SHARE + self._AROUND_SHARE
        )

    @property
    def late_growth_bytes(self) -> int:
        """The same, of the last third alone: little where growth has ended."""
        return self._most(1 - self._AROUND_SHARE, 1.0) - self._most(0.6, 0.7)

    @property
    def growth_per_s(self) -> float:
        """Bytes a second after the warm-up."""
        return self.growth_bytes / max(self.last.at_s - self.warm_s, 1e-3)

    @property
    def sustained_bytes(self) -> int:
        """What was resident in the last quarter of the run, before whatever it freed in the end: the median."""
        return int(statistics.median(sample.resident_bytes for sample in self._between(0.75, 0.97)))

    def _most(self, from_share: float, to_share: float) -> int:
        total_s = self.last.at_s - self.began_s
        from_s, to_s = (self.began_s + share * total_s for share in (from_share, to_share))
        within = [sample.resident_bytes for sample in self.samples if from_s <= sample.at_s <= to_s]
        return max(*within, self._resident_at(from_s), self._resident_at(to_s))

    def _resident_at(self, at_s: float) -> int:
        """Between samples, which are far apart where whoever takes them gets no processor, on the line from one to the
        next."""
        earlier, later = self.samples[0], self.last
        for sample in self.samples:
            if sample.at_s >= at_s:
                later = sample
                break
            earlier = sample
        share = (at_s - earlier.at_s) / (later.at_s - earlier.at_s) if later.at_s > earlier.at_s else 0.0
        share = min(max(share, 0.0), 1.0)
        return int(earlier.resident_bytes + share * (later.resident_bytes - earlier.resident_bytes))

    def _between(self, from_share: float, to_share: float) -> Sequence[Sample]:
        total_s = self.last.at_s - self.began_s
        from_s, to_s = (self.began_s + share * total_s for share in (from_share, to_share))
        within = [sample for sample in self.samples if from_s <= sample.at_s <= to_s]
        return within or [min(self.samples, key=lambda sample: abs(sample.at_s - (from_s + to_s) / 2))]

    @property
    def work_began(self) -> Sample:
        """The first sample of the program's own work."""
        return next((sample for sample in self.samples if sample.at_s >= self.began_s), self.samples[0])

    @property
    def cpu_s(self) -> float:
        """Processor time of the program's own work."""
        return self.last.cpu_s - self.work_began.cpu_s

    @property
    def faults(self) -> int:
        """Page faults of the program's own work."""
        return self.last.minor_faults - self.work_began.minor_faults

    @property
    def repeated_faults(self) -> int:
        """Those that did not make the process grow: memory that was given back and taken again.

        Only the net growth is subtracted, to the most there was: between two looks memory may come and go many times.
        """
        grown = max(sample.unbacked_bytes for sample in self.samples) - self.work_began.unbacked_bytes
        return max(self.faults - max(grown, 0) // PAGE_BYTES, 0)

    @property
    def fault_share(self) -> float:
        """An estimate of the share of that processor time that went into repeated page faults.

        It is the kernel's time, by the share of the faults that were repeated.
        """
        if self.cpu_s <= 0 or self.faults <= 0:
            return 0.0
        kernel_s = self.last.kernel_s - self.work_began.kernel_s
        return kernel_s / self.cpu_s * self.repeated_faults / self.faults
