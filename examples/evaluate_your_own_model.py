"""Your own model in the table of the shipped ones, in 30 lines.

    python examples/evaluate_your_own_model.py --out runs/own --jobs 2
    python examples/evaluate_your_own_model.py --out runs/own_grid --root recordings --limit 100

The model is a Pyro function; here it is the A-VAE with a prior of heavy tails. `EnhancementSystem` puts it
beside a model of the zoo, and both enhance the same mixtures: synthetic voices in white and pink noise, or
talking faces of a folder that holds a `splits.csv`. What is no model in Pyro takes part as well: any object
with the attributes of `avse.evaluation.runner.System` that is called with a mixture.

Every row is kept in OUT as soon as it is there: a run that was stopped goes on by the same command, and
`avse.evaluation.store.load_results(OUT)` is all of it, for pandas.
"""

import argparse

import pyro
import pyro.distributions as dist

import avse
from avse.evaluation.protocols import Grid, Synthetic
from avse.evaluation.runner import evaluate
from avse.evaluation.store import load_results
from avse.evaluation.summary import means_table
from avse.systems import EnhancementSystem


def main(args: argparse.Namespace) -> None:
    pair = avse.load("a-vae")

    def heavy_tails(visual=None):
        return pair.model.decoder(pyro.sample("z", dist.StudentT(5.0).expand([32]).to_event(1)))

    own = avse.Pair(heavy_tails, pair.guide, pair.config.front_end, name="heavy tails")
    systems = [EnhancementSystem("a-vae"), EnhancementSystem(own)]
    protocol = Grid(root=args.root, seed=args.seed) if args.root else Synthetic(seed=args.seed)
    evaluate(protocol, systems, args.out, limit=args.limit, jobs=args.jobs)
    print(means_table(load_results(args.out)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--root", default="", help="folder that holds splits.csv; default synthetic voices")
    parser.add_argument("--limit", type=int, default=6, help="so many mixtures")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
