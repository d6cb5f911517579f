"""Speed-up of training if freed memory is kept for the next step instead of being returned to the kernel.

Prediction: a step of 512 images frees about 100 MB of activations. If they are requested again in pages of 4 KiB at
0.7 us each, this takes 18 ms of a step of 120 ms, so keeping them is 1.15 times as fast. At the default batch size the
blocks are a fifth of that, and malloc's own caching holds most of them: 1.03.
"""

from statistics import median

from benchmarks.measuring import Entry, entry
from benchmarks.threads import ROUNDS, VARIANTS, images_per_second
from pipeline.device import LARGEST_KEPT, MOST_KEPT

BATCH_SIZES = (96, 512)
RETURNED = {"OMP_NUM_THREADS": "1"}
KEPT = RETURNED | {"MALLOC_TRIM_THRESHOLD_": str(MOST_KEPT), "MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT)}


def measure() -> list[Entry]:
    """Train with and without the settings of `keep_freed_memory`, each time in a new process, interleaved."""
    results = []
    for variant in VARIANTS:
        for batch_size in BATCH_SIZES:
            pairs = [
                (images_per_second(variant, RETURNED, batch_size), images_per_second(variant, KEPT, batch_size))
                for _ in range(ROUNDS)
            ]
            returned, kept = (median(speeds) for speeds in zip(*pairs))
            conditions = (
                f"images/s of training steps of {variant}, batches of {batch_size}, one thread, freed memory kept over "
                f"returned to the kernel, median of {ROUNDS} interleaved rounds ({kept:.0f} over {returned:.0f})"
            )
            ratio = median(fast / slow for slow, fast in pairs)
            results.append(entry(f"kept_memory_{variant}_{batch_size}", ratio, "ratio", conditions, digits=3))
    return results
