"""An A-VAE trained by Pyro alone: `pyro.infer.SVI`, `pyro.optim` and `Trace_ELBO`, in thirty lines.

    python examples/svi_in_plain_pyro.py --folder sounds --figure svi_in_plain_pyro.png

The lesson: model and guide are ordinary Pyro programs, so that every tool of Pyro applies to them as it is.
`avse train` does the same under Lightning, with early stopping and checkpoints. Without a folder of sound
files the speech is made on the spot.
"""

import argparse
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

from avse.data.corpora.folder import FolderCorpus
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.data.datamodule import FrameDataModule
from avse.data.front_end import FrontEnd
from avse.evaluation.figures import training_figure, write_figure
from avse.models.networks.spectrum import POWER_FLOOR
from avse.zoo.pair import PairConfig, SpeechPair


def main(args: argparse.Namespace) -> None:
    pyro.set_rng_seed(args.seed)
    pyro.clear_param_store()
    corpus = FolderCorpus(args.folder) if args.folder else SyntheticCorpus(speakers=3, sentences=4)
    data = FrameDataModule([corpus], FrontEnd(), cache=None, seed=args.seed)
    train, held_out = (data.frames(split).power + POWER_FLOOR for split in ("train", "validation"))

    arguments = {"latent_size": 16, "encoder": [128], "decoder": [128]}
    pair = SpeechPair(PairConfig("a-vae", arguments, FrontEnd()))
    pair.model.fit_scales(train)
    pair.guide.fit_scales(train)
    svi = SVI(pair.model, pair.guide, pyro.optim.ClippedAdam({"lr": 1e-3, "clip_norm": 200.0}), Trace_ELBO())
    history = []
    for epoch in range(args.epochs):
        batches = train[torch.randperm(len(train))].split(128)
        loss = sum(svi.step(power) for power in batches) / len(train)
        validation = svi.evaluate_loss(held_out) / len(held_out)
        history.append({"epoch": epoch, "train_loss": loss, "validation_loss": validation})
        print(f"epoch {epoch}: ELBO {-loss:.1f} nats a frame, {-validation:.1f} on held-out speakers")
    pair.save_pretrained(args.out)
    if args.figure is not None:
        write_figure(args.figure, training_figure(history, title="A-VAE, trained by pyro.infer.SVI"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--folder", type=Path, help="of sound files; by default synthetic speech")
    result.add_argument("--epochs", type=int, default=10)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path, default=Path("runs/svi-in-plain-pyro"))
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
