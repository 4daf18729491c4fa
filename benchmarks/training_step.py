"""What the Section 4 training step costs beside the bare matrix products of the textbook's one.

Times one iteration of FullBatchDescent (forward, backward, update, and every tenth iteration the
recorded norms) against the products of the same shapes alone, alternating in one process, and
prints the ratio. Run: python benchmarks/training_step.py [--threads N] [--dtype float32]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch

from balancing.experiments.du2018 import Figure2Config, FullBatchDescent, data, network


def bare_products(widths: tuple[int, ...], samples: int, dtype: torch.dtype) -> Callable[[], None]:
    """The forward, backward and gradient products of one iteration, into preallocated buffers."""
    weights = [torch.randn(o, i, dtype=dtype) for i, o in itertools.pairwise(widths)]
    units = [torch.randn(n, samples, dtype=dtype) for n in widths]
    outputs = [torch.empty_like(h) for h in units]
    gradients = [torch.empty_like(w) for w in weights]

    def products() -> None:
        for h, weight in enumerate(weights):
            torch.mm(weight, units[h], out=outputs[h + 1])
        for h in reversed(range(len(weights))):
            if h > 0:
                torch.mm(weights[h].T, units[h + 1], out=outputs[h])
            torch.mm(units[h + 1], units[h].T, out=gradients[h])

    return products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = Figure2Config(dtype=arguments.dtype)
    weights = [parameter.detach() for parameter in network(config).parameters()]
    descent = FullBatchDescent(weights, *data(config), config.step)
    products = bare_products(config.widths, config.samples, weights[0].dtype)

    def training() -> None:
        descent.forward()
        descent.descend()

    def record() -> None:
        descent.loss()
        for weight in descent.weights:
            torch.linalg.vector_norm(weight, dtype=torch.float64).item()

    def ten(step: Callable[[], None], after: Callable[[], None] | None = None) -> float:
        start = time.perf_counter()
        for _ in range(10):
            step()
        if after is not None:
            after()
        return (time.perf_counter() - start) / 10

    ten(training, record), ten(products)
    pairs = np.array([(ten(training, record), ten(products)) for _ in range(arguments.rounds)])
    full, bare = np.median(pairs, axis=0) * 1e3
    low, ratio, high = np.percentile(pairs[:, 0] / pairs[:, 1], [10, 50, 90])
    print(f"{arguments.dtype}, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    print(f"training iteration {full:.2f} ms, bare products {bare:.2f} ms")
    print(f"ratio {ratio:.3f} (10-90 %: {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
