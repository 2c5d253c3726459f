"""What a fit over shards costs: processor time of each question per spot, round trips of dask, and bytes that travel.

    python benchmarks/cluster.py                     measure and print
    python benchmarks/cluster.py --write FILE.csv    the same, into the table that the chapter on clusters reads
    python benchmarks/cluster.py --quick             small sizes only: a test of the script, not of the machine

Numbers. seconds: the least of several runs, of one thread, in processor time, so that other programs on the machine
do not count; per spot where N is given. trip: wall time of a question that says nothing, median of 100, over workers
that are processes of this machine. sent, received: bytes of one sweep, or of one covariance, to and from one worker.
"""

import argparse
import logging
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

N, SIZES = 4096, [(500, 10, 1000), (2000, 20, 1000), (1000, 15, 3000)]  # spots of a shard; J, L, M
REFRESH = ("begin_trial", "gram", "attempt", "keep")


def shard_of(n, n_genes, n_factors, n_inducing):
    """A shard and the loadings, with simulated counts of which one in eight is not zero."""
    import numpy as np

    from nsf_nb.data.counts import SpatialCounts
    from nsf_nb.inference.shards import Shard
    from nsf_nb.models.factor_model import FactorGroup, FactorModel
    from nsf_nb.probability.priors import GaussianProcess

    rng = np.random.default_rng(0)
    xy, points = rng.uniform(-2, 2, (n, 2)), rng.uniform(-2, 2, (n_inducing, 2))
    loadings = rng.gamma(0.5, 2.0, (n_genes, n_factors)).astype("f4")
    data = SpatialCounts.build(rng.poisson(0.13, (n, n_genes)).astype("f4"), xy)
    model = FactorModel((FactorGroup(GaussianProcess(length_scale=0.3), n_factors),))
    return Shard, (model, data, points), loadings


def remembered(n, n_factors):
    """A state to begin with."""
    import numpy as np

    rng = np.random.default_rng(1)
    rows = {name: rng.normal(size=(n, n_factors)).astype("f4") * 0.1 for name in ("m", "offset")}
    rows |= {"v": np.full((n, n_factors), 0.1, "f4"), "sites": np.ones((n, n_factors), "f4"), "alone": None}
    ones = np.ones(n_factors)
    return rows | {"length_scales": 0.3 * ones, "amplitudes": ones.copy(), "residual_kl": np.zeros(n_factors)}


def least(function, repeats=4):
    """The least processor time of some calls, after one that is not counted, and the last result."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.process_time()
        result = function()
        seconds.append(time.process_time() - began)
    return min(seconds[1:]), result


def questions(ask, loadings, n_factors, n_inducing, root):
    """The questions of a sweep and of a covariance: name, and a function that asks; in their order."""
    import numpy as np

    half, ones = np.zeros((n_inducing, n_factors)) + 1e-3, np.ones(n_factors)
    yield "slopes", lambda: ask("slopes", loadings.sum(axis=0), None)
    yield "towards", lambda: ask("towards", np.zeros((3, n_factors)))
    yield "pull", lambda: ask("pull", 0 * ones)
    yield "push", lambda: ask("push", half)
    yield "move", lambda: ask("push", half) and ask("move", 0 * ones, None, None)
    yield "read", lambda: ask("read", loadings, None)
    yield "curvature", lambda: ask("curvature", loadings)
    yield "begin_trial", lambda: ask("begin_trial", 0, (0.3, 1.0), None)
    yield "gram", lambda: ask("gram", 1.0, 0)
    yield "attempt", lambda: ask("attempt", root, None)
    yield "keep", lambda: ask("keep", False)


def times(n_genes, n_factors, n_inducing):
    """Rows of the table: seconds per spot of each question, and of the root of a covariance."""
    import numpy as np

    from nsf_nb.probability.sparse_gp import posterior_scale

    make, given, loadings = shard_of(N, n_genes, n_factors, n_inducing)
    shard, size = make(*given), {"J": n_genes, "L": n_factors, "M": n_inducing}
    basis = least(lambda: shard._basis(0.3), 1)[0]
    yield {"what": "basis", **size, "N": N, "seconds": basis / N}
    shard.recall(remembered(N, n_factors), None)
    shard.read(loadings, None)
    ask, root = (lambda name, *args: [getattr(shard, name)(*args)]), np.eye(n_inducing, dtype="f4")
    found, gram = {}, None
    for name, question in questions(ask, loadings, n_factors, n_inducing, root):
        repeats = 0 if name == "keep" else 4
        if not repeats:
            question()
            continue
        found[name], answer = least(question, repeats)
        gram = answer[0]["gram"] if name == "gram" else gram
    found["move"] = max(found["move"] - found["push"], 0.0)
    for name, seconds in found.items():
        yield {"what": name, **size, "N": N, "seconds": seconds / N}
    yield {"what": "root", **size, "seconds": least(lambda: posterior_scale(gram, np.float32(1.0)), 2)[0]}


def traffic(n_genes, n_factors, n_inducing, client):
    """Rows of the table: bytes to and from one worker, of each question."""
    import numpy as np

    from nsf_nb.inference.elsewhere import Elsewhere

    _, given, loadings = shard_of(512, n_genes, n_factors, n_inducing)
    executor = Elsewhere(client)
    executor.deal(*given)
    each = [(remembered(at.stop - at.start, n_factors), None) for at in executor.cuts]
    executor.ask("recall", each=each)
    executor.ask("read", loadings, None)
    for name, question in questions(executor.ask, loadings, n_factors, n_inducing, np.eye(n_inducing, dtype="f4")):
        before = executor.sent[name], executor.received[name]
        question()
        moved = executor.sent[name] - before[0], executor.received[name] - before[1]
        sent, received = (one // len(executor.cuts) for one in moved)
        yield {"what": name, "J": n_genes, "L": n_factors, "M": n_inducing, "sent": sent, "received": received}
    executor.close()


def trips(client):
    """A row of the table: wall time of a question that says nothing."""
    import numpy as np

    from nsf_nb.inference.elsewhere import Elsewhere

    executor, seconds = Elsewhere(client), []
    executor.deal(*shard_of(64, 10, 2, 10)[1])
    for _ in range(100):
        began = time.perf_counter()
        executor.ask("constant", None)
        seconds.append(time.perf_counter() - began)
    found = {"what": "trip", "workers": len(executor.cuts), "seconds": float(np.median(seconds))}
    executor.close()
    return found


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="FILE.csv", help="table to write")
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    args = parser.parse_args()
    sizes = [(50, 4, 100)] if args.quick else SIZES
    import pandas as pd
    import tensorflow as tf
    from distributed import Client, LocalCluster

    from nsf_nb.probability.products import use_threads

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    use_threads(1)
    rows = [row for size in sizes for row in times(*size)]
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        rows += [row for size in sizes for row in traffic(*size, client)]
        rows.append(trips(client))
    table = pd.DataFrame(rows, columns=["what", "J", "L", "M", "N", "workers", "seconds", "sent", "received"])
    for name in ("J", "L", "M", "N", "workers", "sent", "received"):
        table[name] = table[name].astype("Int64")
    print(table.to_string(index=False))
    if args.write:
        table.to_csv(args.write, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
