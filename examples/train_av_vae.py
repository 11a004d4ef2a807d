"""Train an AV-VAE from scratch in about two minutes, on voices and mouths that are made on the spot.

    python examples/train_av_vae.py --out runs/av-vae

The lesson: what an AV-VAE adds to an A-VAE, part by part. A trunk sees the lips; prior, decoder and guide
read what it saw. Sound says more about sound than lips ever will, and plain training would let the lips
wither: the objective asks the prior to predict speech from lips alone, some steps teach only what sees, and
some frames hide their lips. At the end the bounds are compared with the frames' own lips, with those of other
frames, and with none: lips are of use if the first is best. What is trained here is small and knows drawn
mouths only; the shipped AV-VAE comes from `avse train av-vae` on real videos.
"""

import argparse
from pathlib import Path

import torch

from avse.data.augmentation import LevelAugmentation, LipAugmentation
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.data.datamodule import Batch, FrameDataModule
from avse.data.front_end import FrontEnd
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.evaluation.figures import training_figure, write_figure
from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.base import SpeechGuide
from avse.guides.visual import VisualGuide
from avse.inference.svi.audio_path import FrozenAudioPath
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO, PriorMixedELBO
from avse.inference.svi.training import SVI, TrainingSettings, train
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.networks.lips import LipTrunk, shared_frame_mlp
from avse.models.networks.spectrum import POWER_FLOOR, GaussianEncoder, LogPower, SpectrumDecoder

EMBEDDING, HIDDEN = 32, 128


def main(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    stft = STFT()
    lips = LipFrontEnd(side=16, instants=5)  # the mouth of the frame, and 40 and 80 ms before and after
    corpus = SyntheticCorpus(speakers=args.speakers, sentences=args.sentences, seed=args.seed)
    data = FrameDataModule([corpus], FrontEnd(stft), lips=lips, cache=args.out / "cache", seed=args.seed)

    # v: what the trunk makes of the lips; an embedding of its own stands for lips that are not seen
    trunk = LipTrunk(shared_frame_mlp(lips.side, lips.instants, EMBEDDING, dropout=0.2), EMBEDDING)
    # z | v ~ N(mu(v), diag sigma(v))
    prior = VisualPrior(GaussianEncoder(EMBEDDING, [HIDDEN], args.latent_size, "relu"))
    # s | z, v ~ N_c(0, sigma(z, v))
    decoder = SpectrumDecoder(args.latent_size, [HIDDEN], stft.bins, embedding_size=EMBEDDING)
    model = AVVAE(trunk, prior, decoder)
    # q(z | s, v) = N(mu(s, v), diag sigma(s, v)): it looks through the model's eyes
    encoder = GaussianEncoder(stft.bins, [HIDDEN], args.latent_size, embedding_size=EMBEDDING)
    guide = AudioVisualGuide(LogPower(stft.bins), trunk, encoder)
    frames = data.frames("train").power
    model.fit_scales(frames)
    guide.fit_scales(frames)

    # 0.9 of the bound under the guide + 0.1 of the bound under the prior, a guide that only sees
    elbo = PriorMixedELBO(sight := VisualGuide(trunk, prior), prior_weight=0.1)
    settings = TrainingSettings(max_epochs=args.epochs, kl_warmup=200, gradient_norm=200.0, seed=args.seed)
    svi = SVI(model, guide, settings, elbo, [LevelAugmentation(-6.0, 6.0), LipAugmentation(lips)])
    report = train(svi, data, args.out, callbacks=[FrozenAudioPath(0.2)])
    print(f"{report.train_frames} frames, {report.epochs} epochs, {report.seconds:.0f} s")
    figure = training_figure(report.history, title="AV-VAE on drawn mouths")
    write_figure(args.figure or args.out / "training.png", figure)

    print("validation bounds, nats a frame:        heard and seen   seen alone")
    held_out = data.frames("validation")
    batch = held_out[list(range(len(held_out)))]
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(args.seed))
    own, hidden = batch["visual"], torch.zeros_like(batch["visual"])
    shown = {"own lips": own, "lips of another frame": own[order], "hidden lips": hidden}
    for name, visual in shown.items():
        told = {"power": batch["power"] + POWER_FLOOR, "visual": visual}
        print(f"    {name:<34}{bound(model, guide, told):16.1f}{bound(model, sight, told):13.1f}")


def bound(model: AVVAE, guide: SpeechGuide, batch: Batch) -> float:
    """The evidence lower bound under a guide, nats a frame."""
    torch.manual_seed(0)
    elbo = AnalyticKLTraceEnumELBO(max_plate_nesting=1)
    return -float(elbo.differentiable_loss(model, guide, **batch).detach()) / len(batch["power"])


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--out", type=Path, default=Path("runs/av-vae-example"))
    result.add_argument("--speakers", type=int, default=48)
    result.add_argument("--sentences", type=int, default=5)
    result.add_argument("--latent-size", type=int, default=16)
    result.add_argument("--epochs", type=int, default=20)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path, help="by default training.png in --out")
    return result


if __name__ == "__main__":
    main(parser().parse_args())
