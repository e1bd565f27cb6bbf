"""Two methods of a folder of runs, compared seed by seed.

    python run_benchmark.py --methods linear,cjme --datasets demo --trials 0 --seeds 5    # a minute
    python examples/compare_runs.py linear cjme                                         # seconds

It prints the mean difference with its 95 % interval and p-value, and the difference of each seed. On the
demo's data Linear is about 11 points of HM above CJME.
"""

import sys

import benchmark as gz

method, other, folder = (*sys.argv[1:], *("linear", "cjme", "runs")[len(sys.argv) - 1 :])
results = gz.load_results(folder)
print(results.groupby(["method", "dataset", "mode", "settings"])[["S", "U", "HM", "ZSL"]].mean().round(2))
for metric in ("HM", "ZSL"):
    found = gz.compare(results, method, other, metric=metric)
    print(f"\n{found}")
    print(found.differences.round(2).to_string())
