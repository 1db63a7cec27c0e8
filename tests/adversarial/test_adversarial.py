"""The attacks of timm_asap.adversarial, on models whose answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.adversarial import PixelModel, check_adversarial, fgsm, parse_eps, pgd
from timm_asap.adversarial.attacks import cross_entropy
from timm_asap.adversarial.spaces import ascend, distance, draw_seeded_start, draw_start, project
from timm_asap.errors import UserError

EPS = 8 / 255


def linear_model(classes=2, pixels=12, seed=0, bias=0.0):
    """A linear classifier of 3 x 2 x 2 images; the bias favours class 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    torch.manual_seed(seed)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, pixels))
        model[1].bias.zero_()[0] = bias
    return model


def small_net(classes=4):
    """Conv, BatchNorm and ReLU on 3 x 8 x 8 images, in evaluation mode."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, classes)
    )
    return PixelModel(net, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]).eval()


def inner_images(count=5, size=2, seed=3):
    """Images that no ball of radius 0.2 takes out of [0, 1]."""
    torch.manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(count, 3, size, size)


@pytest.fixture(scope="module")
def net():
    return small_net()


@pytest.fixture(scope="module")
def batch(net):
    """Images that the net has right, and their classes."""
    torch.manual_seed(2)
    images = torch.rand(24, 3, 8, 8)
    return images, net(images).argmax(dim=1)


class TestPixelModel:
    def test_normalizes_per_channel(self):
        model = PixelModel(nn.Flatten(), mean=[0.5, 0.25], std=[0.5, 0.125])
        images = torch.tensor([[[[1.0]], [[0.5]]]])
        assert model(images).tolist() == [[1.0, 2.0]]

    def test_adds_nothing_to_the_state_dict(self):
        inner = linear_model()
        keys = PixelModel(inner, [0.5], [0.5]).state_dict().keys()
        assert set(keys) == {f"model.{key}" for key in inner.state_dict()}

    def test_half_precision_network_gives_float32_logits_and_gradients(self):
        model = PixelModel(linear_model().bfloat16(), [0.5], [0.5])
        images = inner_images()
        assert model(images).dtype == torch.float32
        adversarial = pgd(model, images, torch.zeros(5, dtype=torch.long), EPS, steps=3, random_start=False)
        assert adversarial.dtype == torch.float32
        assert not torch.equal(adversarial, images)

    def test_several_batches_in_one_call(self):
        model = PixelModel(linear_model(), [0.5], [0.5])
        first, second = inner_images(2), inner_images(3, seed=5)
        logits = model(first, second)
        torch.testing.assert_close(logits, (model(first), model(second)))


class TestSpaces:
    def test_l2_projection_by_hand(self):
        images = torch.full((1, 1, 1, 2), 0.5)
        moved = images + torch.tensor([0.3, 0.4]).view(1, 1, 1, 2)  # 0.5 long
        torch.testing.assert_close(project(moved, images, 0.1, "l2").flatten(), torch.tensor([0.56, 0.58]))
        torch.testing.assert_close(project(moved, images, 0.5, "l2"), moved)

    def test_linf_projection_by_hand(self):
        images = torch.tensor([0.05, 0.5, 0.5, 0.98]).view(1, 1, 1, 4)
        moved = torch.tensor([-0.3, 0.55, 0.9, 1.3]).view(1, 1, 1, 4)
        expected = torch.tensor([0.0, 0.55, 0.6, 1.0])
        torch.testing.assert_close(project(moved, images, 0.1, "linf").flatten(), expected)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_radius_zero_gives_the_image_back(self, norm):
        images = inner_images()
        torch.testing.assert_close(project(images + 0.1, images, 0.0, norm), images, rtol=0, atol=1e-7)
        assert torch.equal(project(images, images, 0.0, norm), images)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_step_has_its_length_and_zero_gradients_stay(self, norm):
        images = inner_images(3)
        gradient = torch.randn(3, 3, 2, 2)
        gradient[1] *= 1e-30  # its square is zero in float32
        gradient[2] = 0
        moved = distance(ascend(images, gradient, 0.1, norm), images, norm)
        torch.testing.assert_close(moved, torch.tensor([0.1, 0.1, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("seeded", [False, True])
    def test_starts_are_uniform_in_the_ball(self, norm, seeded):
        images = torch.full((4000, 1, 1, 2), 0.5)
        if seeded:
            start = draw_seeded_start(images, 0.1, norm, seed=0, indices=torch.arange(4000), restart=0)
        else:
            start = draw_start(images, 0.1, norm, torch.Generator().manual_seed(0))
        lengths = distance(start, images, norm)
        assert lengths.max() <= 0.1 + 1e-6
        # in two dimensions, half of the area lies within sqrt(1/2) of the radius; 5 standard deviations are 0.04
        assert (lengths < 0.1 * math.sqrt(0.5)).double().mean() == pytest.approx(0.5, abs=0.04)
        assert (start - images).mean().abs() < 0.005

    def test_seeded_starts_differ_by_seed_restart_and_index_alone(self):
        images = torch.full((3, 3, 4, 4), 0.5)
        indices = torch.tensor([7, 8, 9])
        first = draw_seeded_start(images, 0.1, "linf", 0, indices, 0)
        assert torch.equal(draw_seeded_start(images[:1], 0.1, "linf", 0, indices[2:], 0), first[2:])
        for other in [(1, indices, 0), (0, indices + 3, 0), (0, indices, 1)]:
            assert not torch.isclose(draw_seeded_start(images, 0.1, "linf", *other), first).all(dim=(1, 2, 3)).any()


class TestCrossEntropy:
    def test_is_pytorchs(self):
        torch.manual_seed(0)
        logits, labels = 5 * torch.randn(20, 7), torch.arange(20) % 7
        ours, theirs = (
            torch.func.grad_and_value(lambda z, loss=loss: loss(z).sum())(logits)
            for loss in (
                lambda z: cross_entropy(z, labels),
                lambda z: F.cross_entropy(z, labels, reduction="none"),
            )
        )
        torch.testing.assert_close(ours, theirs)

    def test_gradient_lowers_the_right_class_as_much_as_it_raises_the_others(self):
        """A margin of 60 leaves probabilities of 1e-26, where float32 knows no difference from 1."""
        logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
        cross_entropy(logits, torch.tensor([0])).sum().backward()
        size = math.exp(-60)
        torch.testing.assert_close(logits.grad, torch.tensor([[-2 * size, size, size]]), rtol=1e-4, atol=0)


class TestFgsm:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_is_closed_form_on_a_linear_classifier(self, norm):
        model = linear_model()
        images = inner_images()
        labels = torch.tensor([0, 1, 0, 1, 1])
        towards = model[1].weight[1 - labels] - model[1].weight[labels]  # of the other class, away from the right one
        towards = towards.detach().view_as(images)
        if norm == "linf":
            change = 0.1 * towards.sign()
        else:
            change = 0.1 * towards / towards.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        torch.testing.assert_close(fgsm(model, images, labels, 0.1, norm=norm), images + change)

    def test_stays_in_the_pixel_range(self):
        model = linear_model()
        images = torch.rand(5, 3, 2, 2).round()
        adversarial = fgsm(model, images, torch.zeros(5, dtype=torch.long), 0.3)
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1
        assert ((adversarial - images).abs().max() - 0.3).abs() < 1e-6

    def test_random_start_steps_one_and_a_quarter_eps(self):
        model = linear_model()
        images = inner_images()
        labels = torch.zeros(5, dtype=torch.long)
        start = draw_start(images, 0.1, "linf", torch.Generator().manual_seed(4))
        sign = (model[1].weight[1] - model[1].weight[0]).detach().view(3, 2, 2).sign()
        expected = (start + 0.125 * sign).clamp(images - 0.1, images + 0.1)
        generator = torch.Generator().manual_seed(4)
        adversarial = fgsm(model, images, labels, 0.1, random_start=True, generator=generator)
        torch.testing.assert_close(adversarial, expected)


class TestPgd:
    @pytest.mark.parametrize(("norm", "random_start"), [("linf", True), ("l2", False)])
    def test_reaches_the_farthest_point_of_a_linear_classifier(self, norm, random_start):
        model = linear_model(bias=6)  # never fooled, so all steps are taken: by default they can cross the ball
        images, labels = inner_images(), torch.zeros(5, dtype=torch.long)
        found = pgd(model, images, labels, 0.1, norm=norm, random_start=random_start, seed=0)
        assert (model(found).argmax(dim=1) == labels).all()
        torch.testing.assert_close(found, fgsm(model, images, labels, 0.1, norm=norm), rtol=0, atol=1e-6)

    def test_raises_the_loss_it_is_given(self):
        """Lowering what the default raises ends at the opposite corner of the ball."""
        model = linear_model(bias=6)
        images, labels = inner_images(), torch.zeros(5, dtype=torch.long)
        found = pgd(model, images, labels, 0.1, seed=0, loss=lambda logits, targets: -cross_entropy(logits, targets))
        opposite = 2 * images - fgsm(model, images, labels, 0.1)
        torch.testing.assert_close(found, opposite, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_more_restarts_are_never_worse(self, net, batch, norm):
        images, labels = batch
        eps = {"linf": 0.01, "l2": 0.1}[norm]
        fooled, losses = [], []
        for restarts in (1, 4):
            found = pgd(net, images, labels, eps, norm=norm, steps=3, restarts=restarts, seed=0)
            check_adversarial(images, found, eps, norm)
            logits = net(found).detach()
            fooled.append(logits.argmax(dim=1) != labels)
            losses.append(cross_entropy(logits, labels))
        assert 0 < fooled[0].sum() < len(images)
        assert (fooled[1] | ~fooled[0]).all()
        standing = ~fooled[1]
        assert (losses[1][standing] >= losses[0][standing] - 1e-6).all()
        assert (losses[1][standing] > losses[0][standing]).any()

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_does_not_depend_on_the_batch(self, net, batch, norm):
        images, labels = batch
        indices = torch.arange(100, 124)
        options = {"norm": norm, "steps": 5, "restarts": 2, "seed": 0}
        together = pgd(net, images, labels, 0.02, indices=indices, **options)
        apart = [
            pgd(net, images[rows], labels[rows], 0.02, indices=indices[rows], **options)
            for rows in torch.arange(24).split(5)
        ]
        torch.testing.assert_close(torch.cat(apart), together, rtol=0, atol=1e-6)

    def test_leaves_fooled_images_alone(self, net, batch):
        images, labels = batch
        labels = labels.clone()
        labels[:20] = (labels[:20] + 1) % 4  # wrong from the start
        seen = []
        hook = net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
        found = pgd(net, images, labels, 1e-4, steps=4, random_start=False)
        hook.remove()
        # all, then those that are still right, then all once more to see what came of it
        assert seen == [24, 4, 4, 4, 24]
        assert torch.equal(found[:20], images[:20])

    def test_touches_nothing_but_the_images_it_makes(self, net, batch):
        images, labels = batch
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        given, random_state = images.clone(), torch.get_rng_state()
        pgd(net, images, labels, EPS, steps=2, seed=0)
        fgsm(net, images, labels, EPS, random_start=True, seed=0)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert torch.equal(images, given)
        assert all(parameter.grad is None for parameter in net.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

    def test_keeps_channels_last(self, net, batch):
        images, labels = batch
        formats = []
        hook = net.register_forward_hook(
            lambda module, args, output: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
        )
        given = images.contiguous(memory_format=torch.channels_last)
        found = pgd(net, given, labels, 0.02, steps=4, restarts=2, seed=0)
        hook.remove()
        assert all(formats)
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, pgd(net, images, labels, 0.02, steps=4, restarts=2, seed=0))

    def test_works_under_inference_mode(self, net, batch):
        images, labels = batch
        with torch.inference_mode():
            found = pgd(net, images.clone(), labels.clone(), EPS, steps=2, seed=0)
        assert torch.equal(found, pgd(net, images, labels, EPS, steps=2, seed=0))
        assert not found.is_inference()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"eps": -0.1}, "from 0 up"),
            ({"eps": 8}, "8/255"),
            ({"norm": "l1"}, "unknown norm 'l1'"),
            ({"steps": 0}, "1 step or more"),
            ({"step_size": math.nan}, "step size"),
            ({"restarts": 0}, "1 restart or more"),
            ({"restarts": 2, "random_start": False}, "without a random start"),
        ],
    )
    def test_refuses(self, net, batch, options, message):
        with pytest.raises(UserError, match=message):
            pgd(net, *batch, **{"eps": EPS, **options})


class TestCheckAdversarial:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_accepts_the_surface_and_refuses_beyond(self, norm):
        images = torch.full((2, 1, 2, 2), 0.5)
        moved = images.clone()
        moved[1, 0, 0, 0] += 0.1
        check_adversarial(images, moved, 0.1, norm)
        with pytest.raises(RuntimeError, match="beyond eps"):
            check_adversarial(images, moved, 0.1 - 2e-6, norm)

    def test_refuses_pixels_outside_the_range_and_what_is_no_number(self):
        images = torch.zeros(1, 1, 2, 2)
        with pytest.raises(RuntimeError, match="outside \\[0, 1\\]"):
            check_adversarial(images, images - 0.01, 0.1, "linf")
        with pytest.raises(RuntimeError, match="nan"):
            check_adversarial(images, images * torch.nan, 0.1, "linf")


class TestParseEps:
    @pytest.mark.parametrize(
        ("text", "eps"),
        [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), ("0.03", 0.03), ("0", 0.0), ("1", 1.0), (0.1, 0.1)],
    )
    def test_reads(self, text, eps):
        assert parse_eps(text) == eps

    @pytest.mark.parametrize("text", ["-1/255", "-0.1", "nan", "inf", "eight", "8/0", "8/", "", "1/2/3", "8 255"])
    def test_refuses_what_is_no_radius(self, text):
        with pytest.raises(UserError, match="such as 8/255"):
            parse_eps(text)

    def test_grey_levels_get_a_hint(self):
        with pytest.raises(UserError, match="at most 1, got '8'; 8 of 255 gray levels is 8/255"):
            parse_eps("8")

    def test_l2_may_be_larger_than_one(self):
        assert parse_eps("3", norm="l2") == 3.0
