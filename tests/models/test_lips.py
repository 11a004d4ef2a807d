"""Trunks: missing lips have one learned embedding, others that of the layers; `cached_embeddings`."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from avse.data.lips.front_end import LipFrontEnd, LipTrack
from avse.models.networks.lips import (
    FrameDifference,
    LipTrunk,
    cached_embeddings,
    motion_mlp,
    papers_mlp,
    shared_frame_mlp,
)
from avse.zoo.architectures import lip_trunk

E, N = 4, 6
FRONT_END = LipFrontEnd(side=5, instants=3)
VALID = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
"""Which of the N frames show the lips."""
SEEN = VALID > 0.5
SHAPES = [(), (2,), (3, 2)]


def linear_trunk() -> LipTrunk:
    """One layer, with an embedding of its own for unseen lips."""
    trunk = LipTrunk(nn.Sequential(nn.Linear(FRONT_END.size - 1, E), nn.Tanh()), E).double()
    nn.init.normal_(trunk.missing_embedding)
    return trunk


@pytest.fixture
def trunk() -> LipTrunk:
    return linear_trunk()


def lips(*batch: int, scale: float = 1.0) -> Tensor:
    """Random pixels and `VALID`, (*batch, N, D)."""
    pixels = scale * torch.randn(*batch, N, FRONT_END.size - 1, dtype=torch.float64)
    return torch.cat([pixels, VALID[:, None].expand(*batch, N, 1)], -1)


def calls(trunk: LipTrunk) -> Callable[[], int]:
    """How often the layers of the trunk have been evaluated from now on."""
    seen: list[None] = []
    trunk.layers.register_forward_hook(lambda *ignored: seen.append(None))
    return lambda: len(seen)


@pytest.mark.parametrize("kind", ["shared", "papers"])
@pytest.mark.parametrize("shape", SHAPES)
def test_embedding_of_every_frame(kind: str, shape: tuple[int, ...]) -> None:
    """Layers frame by frame where the lips are seen; the learned vector, to the bit, where they are not."""
    trunk = lip_trunk(FRONT_END, E, kind).double()
    nn.init.normal_(trunk.missing_embedding)
    visual = lips(*shape)
    embedding = trunk(visual)
    assert embedding.shape == (*shape, N, E)
    unseen = embedding[..., ~SEEN, :]
    assert torch.equal(unseen, trunk.missing_embedding.expand_as(unseen))
    one_by_one = torch.stack(
        [trunk.layers(frame[None, :-1])[0] for frame in visual[..., SEEN, :].reshape(-1, FRONT_END.size)]
    )
    torch.testing.assert_close(embedding[..., SEEN, :].reshape(-1, E), one_by_one, rtol=1e-9, atol=1e-12)
    assert one_by_one.std(0).max() > 1e-4


def test_unseen_pixels_do_not_matter(trunk: LipTrunk) -> None:
    first, other = trunk(lips()), trunk(lips(scale=1e6))
    assert torch.equal(first[~SEEN], other[~SEEN])
    assert (first[SEEN] != other[SEEN]).any(-1).all()


def test_gradients_keep_apart_what_is_seen_and_what_is_not(trunk: LipTrunk) -> None:
    """d/d theta of a random projection: the layers' is that of the seen frames alone, `unseen`'s the rest."""
    visual, weights = lips(2), torch.randn(2, N, E, dtype=torch.float64)
    layers = list(trunk.layers.parameters())
    unseen, *found = torch.autograd.grad((trunk(visual) * weights).sum(), [trunk.missing_embedding, *layers])
    torch.testing.assert_close(unseen, weights[:, ~SEEN].sum((0, 1)))
    alone = (trunk.layers(visual[:, SEEN, :-1]) * weights[:, SEEN]).sum()
    for gradient, truth in zip(found, torch.autograd.grad(alone, layers), strict=True):
        assert truth.abs().max() > 0
        torch.testing.assert_close(gradient, truth)


def test_no_lips_at_all_are_refused(trunk: LipTrunk) -> None:
    with pytest.raises(ValueError, match="needs lips: give visual"):
        trunk(None)
    with cached_embeddings(), pytest.raises(ValueError, match="give visual"):
        trunk(None)


# One look ------------------------------------------------------------------------------------------------


def test_one_look_is_one_evaluation(trunk: LipTrunk) -> None:
    count, visual, other = calls(trunk), lips(), lips()
    outside, outside_other = trunk(visual), trunk(other)
    assert count() == 2
    with cached_embeddings():
        for _ in range(3):
            assert torch.equal(trunk(visual), outside)
        assert count() == 3
        assert torch.equal(trunk(other), outside_other)
        assert torch.equal(trunk(visual), outside)
        assert count() == 4
    trunk(visual), trunk(visual)
    assert count() == 6


@torch.no_grad()
def test_one_look_takes_no_tensor_for_another(trunk: LipTrunk) -> None:
    """Tensors that come and go may have one id, and stand at one address in memory."""

    def frame(value: int) -> Tensor:
        return torch.cat([torch.full((1, FRONT_END.size - 1), value / 50), torch.ones(1, 1)], 1).double()

    truth = [trunk(frame(value)) for value in range(50)]
    with cached_embeddings():
        assert all(torch.equal(trunk(frame(value)), truth[value]) for value in range(50))


def test_one_look_is_forgotten(trunk: LipTrunk) -> None:
    """After it, and after an error, new weights show; so they do in the next look."""
    visual = lips()

    def changed() -> None:
        before = trunk(visual)
        with torch.no_grad():
            trunk.missing_embedding.add_(1)
            trunk.layers[0].bias.add_(1)
        assert (trunk(visual) != before).all()

    def interrupted() -> None:
        with cached_embeddings():
            trunk(visual)
            trunk(None)

    with cached_embeddings():
        trunk(visual)
    changed()
    with pytest.raises(ValueError, match="give visual"):
        interrupted()
    changed()
    with cached_embeddings():
        first = trunk(visual)
    with torch.no_grad():
        trunk.missing_embedding.add_(1)
    with cached_embeddings():
        assert (trunk(visual) != first)[~SEEN].all()


@pytest.mark.parametrize("tied", [True, False])
def test_the_cache_of_several_trunks(tied: bool) -> None:
    """Every trunk computes its own embedding once; a shared one once for all of its users."""
    first = linear_trunk()
    second = first if tied else linear_trunk()
    counts, visual = {calls(trunk) for trunk in {first, second}}, lips()
    with cached_embeddings():
        for _ in range(2):
            first(visual), second(visual)
        assert sum(count() for count in counts) == (1 if tied else 2)
    first(visual), second(visual)
    assert sum(count() for count in counts) == (3 if tied else 4)


def test_backward_twice(trunk: LipTrunk) -> None:
    """Outside, and in one look after the other; gradients add up to the same."""
    visual = lips()
    gradients = []
    for context in (nullcontext, cached_embeddings):
        trunk.zero_grad()
        for _ in range(2):
            with context():
                (trunk(visual).sum() + trunk(visual).square().sum()).backward()
        gradients.append([p.grad for p in trunk.parameters()])
    for outside, inside in zip(*gradients, strict=True):
        assert outside.abs().max() > 0
        torch.testing.assert_close(outside, inside)


# Layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [shared_frame_mlp, motion_mlp])
@pytest.mark.parametrize("side", [1, 5, 8, 17])
@pytest.mark.parametrize("pictures", [1, 3])
def test_shared_map_of_any_side(make: Callable[..., nn.Module], side: int, pictures: int) -> None:
    layers = make(side, pictures, E, features=3, hidden=4)
    assert layers(torch.rand(7, pictures * side**2)).shape == (7, E)


def test_change_from_picture_to_picture() -> None:
    """By hand; 0 where a picture stands still."""
    pictures = torch.randn(7, 3, 25, dtype=torch.float64)
    pictures[2, 1] = pictures[2, 0]
    change = FrameDifference(3, floor=0.01)(pictures.flatten(1))
    for n in range(7):
        for p in range(2):
            square = sum((pictures[n, p + 1, i] - pictures[n, p, i]) ** 2 for i in range(25)) / 25
            assert change[n, p] == pytest.approx(0.5 * math.log(1 + square / 0.01))
    assert change[2, 0] == 0


def test_a_watchful_map_sees_a_still_mouth_whatever_it_looks_like() -> None:
    """The change of the video frames is concatenated with the output of the linear map."""
    layers = motion_mlp(5, 3, E, features=2)
    still = torch.randn(7, 1, 25).expand(7, 3, 25).flatten(1)
    beside = layers[0](still)
    assert beside.shape == (7, 3 * 2 + 2)
    assert (beside[:, -2:] == 0).all()
    assert torch.equal(beside[:, :6], layers[0].parts[0](still))
    assert (layers[0](torch.randn(7, 75))[:, -2:] > 1).all()


def test_the_papers_layers() -> None:
    """4489-512-128, a ReLU after each."""
    layers = papers_mlp(67, 1)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * 2
    assert [tuple(p.shape) for p in layers.parameters()] == [(512, 4489), (512,), (128, 512), (128,)]


def test_pictures_arrive_as_the_front_end_laid_them_out() -> None:
    """The first layer is shown picture p, upright, in row p."""
    pictures = torch.randint(0, 256, (3, 5, 5), dtype=torch.uint8)
    track = LipTrack(pictures, torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([True]))
    trunk = lip_trunk(FRONT_END, E)
    shown = trunk.layers[0](FRONT_END.visual(track)[:, :-1])
    torch.testing.assert_close(shown[0].reshape(3, 5, 5), (pictures.float() - 128) / 40)
