"""Watch a process that runs already: what its memory is for, and what grows.

The process does not notice. What the system tells of it is always there: mappings, page faults, threads, the processes
that it started. Where it imported memomalloc.auto, a copy of it is asked as well: tensors, Python's objects, who holds
them, what its allocator has free. Another account is printed every --every seconds, with what grew since the first one.

SIGUSR1 to the watching process has an account taken at once, from which growth is counted from then on: sent before and
after a thousand requests, it tells what grew in them. Ctrl-C ends the watching, not the process.

examples:
  memomalloc watch 4711
  memomalloc watch --every 60 4711
  memomalloc watch --once --json 4711
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
from typing import TYPE_CHECKING, Any

from memomalloc.cli.option_types import seconds, whole
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.doctor.account import Account
    from memomalloc.doctor.attached import Attached

HELP = "watch a process that runs already: what its memory is for, and what grows"

_MAX_HOLDERS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object for each account, a line each")
    parser.add_argument(
        "--every", type=seconds, default=10.0, metavar="S", help="seconds between accounts (default: 10)"
    )
    parser.add_argument("--once", action="store_true", help="one account, and no more")
    parser.add_argument("pid", type=whole(1), metavar="PID", help="the number of the process")


def run(args: argparse.Namespace) -> int:
    """Watch until the process ends.

    Returns:
        0; whatever goes wrong is raised.
    """
    from memomalloc.doctor.attached import Attached

    attached = Attached(args.pid)
    attached.samples.take()
    asked = threading.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *_: asked.set())
    earlier = account = attached.account()
    try:
        while account is not None and earlier is not None:
            attached.samples.take()
            _print(args, attached, earlier, account)
            if asked.is_set():
                asked.clear()
                earlier = account
            if args.once or not attached.watch(args.every, until=asked.is_set):
                break
            account = attached.account()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGUSR1, previous)
    if not args.once and not args.json:
        print(f"process {args.pid} has ended")
    return 0


def _print(args: argparse.Namespace, attached: Attached, earlier: Account, account: Account) -> None:
    from memomalloc.cli.account_table import account_lines
    from memomalloc.doctor.diagnosis import MIB, mib

    taken = attached.samples.taken
    begun, now = taken[0], taken[-1]
    if args.json:
        print(json.dumps(_as_json(attached, earlier, account)), flush=True)
        return
    passed_s = max(now.at_s - begun.at_s, 1e-3)
    print(
        f"process {args.pid} after {now.at_s:.0f} s: {now.resident_bytes / MIB:,.0f} MiB resident, "
        f"{now.num_threads} threads, {now.num_children} processes of its own with {mib(now.children_bytes)}, "
        f"{(now.minor_faults - begun.minor_faults) / passed_s:,.0f} page faults a second"
    )
    print("\n".join(account_lines(account, earlier)))
    is_first, more = account is earlier, "" if account is earlier else " more"
    for holder in (account.holders if is_first else account.holders_since(earlier, MIB))[:_MAX_HOLDERS]:
        print(f"  {mib(holder.num_bytes)}{more} by {harmless(holder.path)}, {holder.what}")
    if not attached.is_seen_inside:
        print("  seen from outside alone: a process that imports memomalloc.auto tells of tensors and who holds them")
    print(flush=True)


def _as_json(attached: Attached, earlier: Account, account: Account) -> dict[str, Any]:
    now = attached.samples.taken[-1]
    return {
        "pid": attached.samples.pid,
        "at_s": now.at_s,
        "resident_bytes": now.resident_bytes,
        "page_faults": now.minor_faults - attached.samples.taken[0].minor_faults,
        "num_threads": now.num_threads,
        "num_children": now.num_children,
        "children_bytes": now.children_bytes,
        "is_seen_inside": attached.is_seen_inside,
        "account_bytes": dict(account.parts),
        "account_growth_bytes": account.growth_since(earlier),
        "holders": [
            {"path": holder.path, "what": holder.what, "num_bytes": holder.num_bytes} for holder in account.holders
        ],
    }
