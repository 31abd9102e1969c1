"""A process that forks children which write banks and may be killed at any time.

Reads lines ``task path die_at``; answers with lines ``pid P``, ``ready``, ``done SECONDS``
and ``exit CODE``. Forking spares every child the import of PyTorch.
"""

import itertools
import os
import signal
import sys
import time

import torch
from torch import nn

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.bank import writers


def batches(sign: int) -> list[torch.Tensor]:
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    return list((sign * x).split(16))


def fit(out, sign: int, resume: bool = False, pause: float = 0.0) -> ConfigurationBank:
    """A fit in blocks of 32 rows, with a pause before each batch."""
    writers.BLOCK_ROWS = 32
    model = nn.Identity()

    def data():
        for batch in batches(sign):
            time.sleep(pause)
            yield batch

    rdr = RelaxedDecisionRegion(model, model)
    return rdr.fit(data(), out=out, resume=resume, show_progress=False).bank


def large_bank(sign: int, repeats: int = 3000) -> ConfigurationBank:
    """A bank of 5 MB."""
    bank = ConfigurationBank((40,))
    bank.append(torch.cat(batches(sign)).repeat(repeats, 1) > 0)
    return bank


def die_at_change(number: int) -> None:
    """Kill this process at the n-th call that makes a change to the disk last."""
    calls = itertools.count()

    def counted(real):
        def call(*args):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    os.fsync, os.replace, os.unlink = map(counted, (os.fsync, os.replace, os.unlink))


def report(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main() -> None:
    torch.set_num_threads(1)
    large = large_bank(-1)
    for line in sys.stdin:
        task, path, number = line.split()
        pid = os.fork()
        if pid:
            report(f"exit {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            continue
        report(f"pid {os.getpid()}")
        if int(number) >= 0:
            die_at_change(int(number))
        report("ready")
        start = time.perf_counter()
        if task == "save":
            large.save(path)
        else:
            fit(path, -1, pause=0.003)
        report(f"done {time.perf_counter() - start}")
        os._exit(0)


if __name__ == "__main__":
    main()
