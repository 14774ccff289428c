"""Train the toy in child processes that are killed, again and again, until one of them finishes.

Usage: killed_training.py DATA OUT KILL ... where KILL is ``step:7`` (the child kills itself in its seventh call of the
loss) or ``time:0.3`` (it is killed from outside after that many seconds); after the last KILL one child is left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # optimisers import it; once here instead of once in every child

sys.path.insert(0, str(Path(__file__).parent))

import toy_model

from caloforge.training import loop, train

PRESET = toy_model.toy_preset(epochs=4, ema=0.9, gradient_clip=5.0)


def child(data: str, out: str, kill: str | None) -> None:
    if kill is not None and kill.startswith("step:"):
        countdown = int(kill.removeprefix("step:"))
        original = toy_model._Gauss.loss, toy_model._Game.loss

        def mortal(which):
            def loss(self, player, batch, streams):
                nonlocal countdown
                countdown -= 1
                if countdown == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original[which](self, player, batch, streams)

            return loss

        toy_model._Gauss.loss, toy_model._Game.loss = mortal(0), mortal(1)
    train(PRESET, data, out, resume=True, checkpoint_seconds=0.0, threads=1, show=False)


def main(data: str, out: str, *kills: str) -> None:
    torch.set_num_threads(1)
    loop.draw_curves = lambda *args, **kwargs: None  # seconds of plotting would teach nothing here
    for kill in (*kills, None):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(data, out, kill)
                code = 0
            finally:
                os._exit(code)
        if kill is not None and kill.startswith("time:"):
            time.sleep(float(kill.removeprefix("time:")))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(kill, status, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
