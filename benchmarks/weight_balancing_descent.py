"""How much a step of WeightBalancingDescent costs beyond one of torch.optim.SGD.

Times a full step (forward, backward, update) of the Section 4 network on all its 1,000 samples,
ten with SGD and ten with WeightBalancingDescent in turn, each on a network of its own, in one
process, and prints the ratio for several (p, q). The learning rate is such that the first step is
as long as SGD's.
Run: python benchmarks/weight_balancing_descent.py [--threads N] [--dtype float32] [--tol 1e-6]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from balancing import WeightBalancingDescent, gradient_flow, weight_balancing_flow
from balancing.experiments.du2018 import Figure2Config, data, network

PAIRS = ((1, 1), (1, 2), (2, 2), (1.5, 1.5), (2, 1), (3, 3))
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = Figure2Config(init="unbalanced", dtype=arguments.dtype)
    x, y = data(config)

    def loss(net: nn.Module) -> Tensor:
        residual: Tensor = net(x) - y
        return residual.square().sum() / (2 * len(x))

    def ten_steps(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
        def timed() -> float:
            start = time.perf_counter()
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss(net).backward()
                optimizer.step()
            return time.perf_counter() - start

        return timed

    def length(velocity: dict[str, Tensor]) -> float:
        return float(torch.cat([v.flatten() for v in velocity.values()]).norm())

    print(f"{arguments.dtype}, {arguments.threads} threads, tol {arguments.tol:g}")
    print(f"medians of {arguments.rounds} rounds of {STEPS} steps")
    for p, q in PAIRS:
        plain, net = network(config), network(config)
        of_flow = p * length(weight_balancing_flow(net, loss(net), p, q))
        lr = config.step * length(gradient_flow(net, loss(net))) / of_flow
        balancing = WeightBalancingDescent(net, lr, p, q, tol=arguments.tol)
        ours = ten_steps(net, balancing)
        theirs = ten_steps(plain, torch.optim.SGD(plain.parameters(), lr=config.step))
        ours(), theirs()
        pairs = np.array([(ours(), theirs()) for _ in range(arguments.rounds)])
        low, ratio, high = np.percentile(pairs[:, 0] / pairs[:, 1], [10, 50, 90])
        milliseconds = np.median(pairs, axis=0) / STEPS * 1e3
        print(
            f"p = {p:<3g} q = {q:<3g} ratio {ratio:.3f} (10-90 %: {low:.3f} to {high:.3f}), "
            f"{milliseconds[0]:.2f} ms against {milliseconds[1]:.2f} ms, "
            f"deviation {balancing.deviation:.0e}"
        )


if __name__ == "__main__":
    main()
