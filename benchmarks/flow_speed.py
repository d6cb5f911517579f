"""Every family of flows against the fastest PyPI package that has it: f(z) and ln|det|, without and with gradients.

Prediction, from counting operations (an operation on 96 x 40 numbers costs a few microseconds, mostly overhead):

- planar, 10 maps: one step on (K, batch) per map, where Pyro needs about 20 operations per map. 4 to 6 times as fast;
  40 maps more (7.3 times at a batch of 512 was measured before).
- radial: about 12 operations per map in both. 1.0 to 1.2 times as fast.
- householder: a loop over 20 reflections in both, with one operation less in ours. 1.0 to 1.3.
- sylvester: Pyro multiplies 8 matrices of 40 x 40 per map, and ours never forms Q. 1.5 to 3.
- real_nvp, autoregressive: matrix products are the same in every package. 1.0 to 1.2 times as fast as the better of
  Pyro and zuko; ours has direct connections in autoregressive nets, which zuko has not.
- spline_coupling, spline_autoregressive: the elementwise arithmetic is most of it, about 60 operations each in all
  packages. 1.0 to 1.3.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from math import prod
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Entry, elapsed, entry
from benchmarks.peers import CASES, CONTEXT, LATENT_DIM, Case, Map
from flowvae.model.flows import FLOWS
from pipeline.device import keep_freed_memory

BATCHES, ROUNDS, IMPORT_ROUNDS, SECONDS, MATRIX = (96, 512), 11, 3, 0.05, 1024
Pass = Callable[[Map, Tensor], object]


def measure() -> list[Entry]:
    """Ratios of times, of a peer over ours, for each family, batch size and kind of pass."""
    settle()
    torch.manual_seed(0)
    results = [entry_of_imports()]
    flops = matrix_flops()
    results.append(entry("matrix_product_gflops", flops / 1e9, "GFLOP/s", f"the best of 30, {MATRIX} cubed, 1 thread"))
    for case in CASES:
        maps = {"flowvae": own_map(case), **{name: build() for name, build in case.installed().items()}}
        for name, run in PASSES.items():
            results += [entry_of(case, maps, name, run, batch, flops) for batch in BATCHES]
    return results


def settle() -> None:
    """One thread, and an allocator that keeps what is freed, as in training."""
    torch.set_num_threads(1)
    keep_freed_memory()


def own_map(case: Case) -> Map:
    """Our flow, with random parameters."""
    shape = case.settings.get("map_shape", (LATENT_DIM,))
    settings = {name: value for name, value in case.settings.items() if name != "map_shape"}
    if "map_shape" in case.settings:
        settings["map_shape"] = None  # the latent has that shape already
    assert prod(shape) == LATENT_DIM
    features = CONTEXT if settings.get("amortised") else 0
    flow = FLOWS[case.family].module(shape, features, **settings)
    with torch.no_grad():
        for parameter in flow.parameters():  # the start is the identity
            parameter += 0.05 * torch.randn_like(parameter)
    return lambda z: flow(z[:, :features].detach()).call_and_ladj(z)


def forward(flow: Map, z: Tensor) -> None:
    """f(z) and ln|det| alone; z is a new tensor each time, because Pyro caches the last result."""
    with torch.no_grad():
        flow(z.clone())


def forward_and_backward(flow: Map, z: Tensor) -> None:
    """Also the gradients of z and of all parameters."""
    y, ladj = flow(z.clone())
    (y.square().sum() - ladj.sum()).backward()


PASSES: dict[str, Pass] = {"forward": forward, "backward": forward_and_backward}
WORDS = {"forward": "f(z) and ln|det|", "backward": "f(z), ln|det| and gradients"}


def entry_of(case: Case, maps: dict[str, Map], name: str, run: Pass, batch: int, flops: float) -> Entry:
    """The time of the fastest peer over ours, or our milliseconds if there is no peer."""
    z = torch.randn(batch, LATENT_DIM, requires_grad=True)
    times = interleaved({package: lambda m=m: run(m, z) for package, m in maps.items()})  # type: ignore[misc]
    medians = {package: median(values) for package, values in times.items()}
    limit = products(lambda: run(maps["flowvae"], z)) / flops * 1e3
    listed = ", ".join(f"{package} {value:.3f} ms" for package, value in medians.items())
    conditions = (
        f"{WORDS[name]}, batch {batch}, D {LATENT_DIM}: {listed}, our matrix products alone {limit:.4f} ms; "
        f"{case.description}; 1 thread, float32, freed memory kept, median of {ROUNDS} rounds, interleaved"
    )
    peers = [package for package in maps if package != "flowvae"]
    label = f"flow_{case.name}_{name}_{batch}"
    if not peers:
        return entry(f"{label}_ms", medians["flowvae"], "ms", conditions, digits=3)
    fastest = min(peers, key=medians.__getitem__)
    ratio = median(peer / own for peer, own in zip(times[fastest], times["flowvae"], strict=True))
    return entry(f"{label}_over_ours", ratio, "ratio", f"{fastest} over ours, {conditions}", digits=2)


def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds per call in each round; a round measures every call once, for about SECONDS."""
    counts = {name: repetitions(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()  # warm-up
            times[name].append(elapsed(lambda call=call, n=counts[name]: repeat(call, n)) / counts[name] * 1e3)  # type: ignore[misc]
    return times


def repetitions(call: Callable[[], object]) -> int:
    """How often a call fits into SECONDS."""
    repeat(call, 3)
    return max(1, round(SECONDS * 3 / elapsed(lambda: repeat(call, 3))))


def repeat(call: Callable[[], object], count: int) -> None:
    """Call `count` times."""
    for _ in range(count):
        call()


def matrix_flops() -> float:
    """FLOP/s of the fastest of several products of two large matrices."""
    a, b = torch.randn(2, MATRIX, MATRIX).unbind()
    return 2 * MATRIX**3 / min(elapsed(lambda: a @ b) for _ in range(30))


def products(call: Callable[[], object]) -> int:
    """FLOP in the matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def entry_of_imports() -> Entry:
    """Our time where the peers are imported over that where they are not: new processes in turns."""
    ratios = []
    for _ in range(IMPORT_ROUNDS):
        without, with_peers = (own_times(argument) for argument in ("alone", "peers"))
        ratios += [after / before for before, after in zip(without, with_peers, strict=True)]
    conditions = (
        f"our time in a process that imported the peers over one that did not, batch {BATCHES[0]}, both passes of "
        f"{len(CASES)} flows, median of {IMPORT_ROUNDS} interleaved rounds of all"
    )
    return entry("flow_speed_with_peers_imported", median(ratios), "ratio", conditions, digits=3)


def own_times(argument: str) -> list[float]:
    """Milliseconds of our passes in a new process."""
    command = [sys.executable, "-m", "benchmarks.flow_speed", argument]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def times_here() -> Iterator[float]:
    """Milliseconds of our passes in this process, each repeated for about SECONDS."""
    settle()
    z = torch.randn(BATCHES[0], LATENT_DIM, requires_grad=True)
    for case in CASES:
        flow = own_map(case)
        for run in PASSES.values():
            count = repetitions(lambda flow=flow, run=run: run(flow, z))
            started = time.perf_counter()
            repeat(lambda flow=flow, run=run: run(flow, z), count)
            yield (time.perf_counter() - started) / count * 1e3


if __name__ == "__main__":
    if sys.argv[1] == "peers":
        for package in sorted({package for case in CASES for package in case.installed()}):
            import_module(package)
    print(json.dumps(list(times_here())))
