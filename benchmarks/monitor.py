"""How much InvariantMonitor adds to training the Section 4 network.

Times ten training steps of the Section 4 network (FullBatchDescent) without and with one call of
the monitor behind them, alternating in one process, and prints the ratio.
Run: python benchmarks/monitor.py [--threads N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from balancing import InvariantMonitor
from balancing.experiments.du2018 import Figure2Config, FullBatchDescent, data, network

EVERY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = Figure2Config()
    model = network(config)
    weights = [parameter.detach() for parameter in model.parameters()]
    descent = FullBatchDescent(weights, *data(config), config.step)
    monitor = InvariantMonitor(model)

    def ten_steps(monitored: bool) -> float:
        start = time.perf_counter()
        for _ in range(EVERY):
            descent.forward()
            descent.descend()
        if monitored:
            _ = descent.weights  # which brings the model's up to date
            monitor.step()
        return time.perf_counter() - start

    ten_steps(True), ten_steps(False)
    pairs = np.array([(ten_steps(True), ten_steps(False)) for _ in range(arguments.rounds)])
    low, ratio, high = np.percentile(pairs[:, 0] / pairs[:, 1], [10, 50, 90])
    print(f"{arguments.threads} threads, medians of {arguments.rounds} rounds of {EVERY} steps")
    print(f"ratio {ratio:.3f} (10-90 %: {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
