"""Train an A-VAE from scratch in about a minute, on speech that is made on the spot.

    python examples/train_a_vae.py --out runs/a-vae

The lesson: a model, its guide, and an evidence lower bound. The networks are two perceptrons, the data comes
from a speech synthesiser, and the whole of training is the one call `train`. Swap the prior, the decoder or
the encoder below, and nothing else has to change. What is trained here is small; the shipped A-VAE comes from
`avse train a-vae` on real speech.
"""

import argparse
from pathlib import Path

from avse.data.augmentation import LevelAugmentation
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.data.datamodule import FrameDataModule
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.evaluation.figures import training_figure, write_figure
from avse.guides.audio import AudioGuide
from avse.inference.svi.training import SVI, TrainingSettings, train
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.networks.spectrum import GaussianEncoder, LogPower, SpectrumDecoder


def main(args: argparse.Namespace) -> None:
    stft = STFT()
    corpus = SyntheticCorpus(speakers=args.speakers, sentences=args.sentences, seed=args.seed)
    data = FrameDataModule(
        [corpus], FrontEnd(stft), batch_size=128, cache=args.out / "spectra", seed=args.seed
    )

    # z ~ N(0, I);  s | z ~ N_c(0, sigma(z))
    model = AVAE(StandardNormal(args.latent_size), SpectrumDecoder(args.latent_size, [128], stft.bins))
    # q(z | s) = N(mu(s), diag sigma(s))
    guide = AudioGuide(LogPower(stft.bins), GaussianEncoder(stft.bins, [128], args.latent_size))
    frames = data.frames("train").power
    model.fit_scales(frames)
    guide.fit_scales(frames)

    settings = TrainingSettings(max_epochs=args.epochs, kl_warmup=200, gradient_norm=200.0, seed=args.seed)
    svi = SVI(model, guide, settings, augmentations=[LevelAugmentation()])
    report = train(svi, data, args.out)
    print(f"{report.train_frames} frames, {report.epochs} epochs, {report.seconds:.0f} s")
    write_figure(args.figure or args.out / "training.png", training_figure(report.history, title="A-VAE"))
    print(f"validation ELBO {report.validation_elbo:.1f} nats a frame")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--out", type=Path, default=Path("runs/a-vae-example"))
    result.add_argument("--speakers", type=int, default=12)
    result.add_argument("--sentences", type=int, default=20)
    result.add_argument("--latent-size", type=int, default=16)
    result.add_argument("--epochs", type=int, default=30)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path, help="by default training.png in --out")
    return result


if __name__ == "__main__":
    main(parser().parse_args())
