"""Train as a config states, and let the first process be asked to stop after some steps: CONFIG [--stop-after N].

A script of its own, since Lightning starts the other processes with the command line of the first.
"""

from __future__ import annotations

import argparse
import os
import signal

from voxshard.cli import main
from voxshard.learning._torch.module import TrainedNetwork

parser = argparse.ArgumentParser()
parser.add_argument("config")
parser.add_argument("--stop-after", type=int)
given = parser.parse_args()
step = TrainedNetwork.training_step


def counted(self: TrainedNetwork, batch: object, number: int) -> object:
    """One step; the signal comes in the middle of it."""
    if number + 1 == given.stop_after and self.current_epoch == 0 and self.global_rank == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
    return step(self, batch, number)


TrainedNetwork.training_step = counted  # type: ignore[method-assign]
main(["train", "--config", given.config])
