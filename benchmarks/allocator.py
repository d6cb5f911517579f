"""What it brings to keep freed memory for the next step, instead of giving it back to the kernel.

Prediction: a step of 512 images frees some 100 MB of activations; fetched again in pages of 4 KiB at
0.7 us, that is 18 ms of a step of 120 ms: 1.15. At the default batch size the blocks are a fifth of that,
and malloc's own caching holds most of them: 1.03.
"""

from statistics import median

from benchmarks.threads import ROUNDS, VARIANTS, run
from pipeline.device import LARGEST_KEPT, MOST_KEPT

BATCH_SIZES = (96, 512)
GIVEN_BACK = {"OMP_NUM_THREADS": "1"}
KEPT = GIVEN_BACK | {"MALLOC_TRIM_THRESHOLD_": str(MOST_KEPT), "MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT)}


def measure() -> list[dict[str, object]]:
    """Training steps in a process of its own, with and without the settings of `keep_freed_memory`, interleaved."""
    results = []
    for variant in VARIANTS:
        for batch_size in BATCH_SIZES:
            pairs = [(run(variant, GIVEN_BACK, batch_size), run(variant, KEPT, batch_size)) for _ in range(ROUNDS)]
            given_back, kept = (median(speeds) for speeds in zip(*pairs))
            conditions = (
                f"images/s of training steps of {variant}, batches of {batch_size}, one thread, freed memory kept over "
                f"given back, median of {ROUNDS} interleaved rounds ({kept:.0f} over {given_back:.0f})"
            )
            ratio = median(fast / slow for slow, fast in pairs)
            results.append(
                {
                    "name": f"kept_memory_{variant}_{batch_size}",
                    "value": round(ratio, 3),
                    "unit": "ratio",
                    "conditions": conditions,
                }
            )
    return results
