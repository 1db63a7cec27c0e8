"""Healing: BatchNorm statistics against direct sums, and the images it takes."""

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.heal_networks import BUFFERS, buffers, images, network, same, trained_alike
from timm_asap import convert, heal
from timm_asap.healing.batchnorm import reestimate_batchnorm
from timm_asap.healing.images import ImageBatches


def batches(source, **options):
    return ImageBatches(source, torch.device("cpu"), torch.float32, **options)


class TestReplacedStatistics:
    def test_is_exact_over_batches_of_any_size(self):
        x = images(103)
        model = network()
        convert(model)
        with torch.no_grad():
            first = model[0](x).double()
        given = batches([x[:40], x[40:73], x[73:]])
        assert reestimate_batchnorm(model, given) == (("1", "3", "6"), ())
        assert given.count == 103
        mean, var = first.mean(dim=(0, 2, 3)), first.var(dim=(0, 2, 3), correction=1)
        torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-5, atol=1e-6)

    def test_one_batch_is_what_pytorch_accumulates_in_training(self):
        x = images(64)
        model = network()
        convert(model)
        expected = trained_alike(copy.deepcopy(model), x)
        reestimate_batchnorm(model, batches(x))
        for name, value in buffers(expected).items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)

    def test_leaves_everything_else_as_found(self):
        model = network()
        convert(model)
        model.train()
        model[3].eval()
        model[1].momentum = 0.37
        model[3].num_batches_tracked += 5
        before = copy.deepcopy(model.state_dict())
        reestimate_batchnorm(model, batches(images(40)))
        assert [m.training for m in model] == [True, True, True, False, True, True, True]
        assert (model[1].momentum, int(model[3].num_batches_tracked)) == (0.37, 5)
        assert all(m.track_running_stats for m in (model[1], model[3], model[6]))
        after = model.state_dict()
        changed = {k for k in before if not torch.equal(before[k], after[k])}
        assert changed == {f"{i}.{b}" for i in (1, 3, 6) for b in BUFFERS}

    @pytest.mark.parametrize("options", [{}, {"training_distribution": True}, {"refit": True}])
    def test_writes_nothing_when_the_images_fail(self, options):
        model = network().train()
        convert(model)
        before = copy.deepcopy(model.state_dict())

        def failing():
            yield images(40)
            yield images(40)
            raise OSError("disk")

        class Failing:
            """A loader whose second pass fails: the first one looks for images to hold out."""

            passes = 0

            def __iter__(self):
                self.passes += 1
                return failing() if self.passes > 1 else iter([images(40), images(40, seed=1)])

        with pytest.raises(OSError, match="disk"):
            heal(model, Failing(), **options)
        with pytest.raises(ValueError, match=r"plain network's output is not finite: check the images"):
            heal(model, images(40) / 0, **options)
        with pytest.raises(ValueError, match=r"input of 1 is not finite: check the images"):
            reestimate_batchnorm(model, batches(images(40) / 0))
        assert same(before, model.state_dict())
        assert all(m.training for m in model)
        assert model[1].track_running_stats

    def test_layers_without_statistics_of_their_own_are_left(self):
        model = network()
        model[3] = nn.BatchNorm2d(6, track_running_stats=False)
        model.unused = nn.BatchNorm2d(4)
        model.forward = lambda x: nn.Sequential(*list(model)[:7])(x)
        frozen = freeze_batch_norm_2d(network())
        convert(model)
        convert(frozen)
        assert reestimate_batchnorm(model, batches(images(40))) == (("1", "6"), ("unused",))
        assert torch.equal(model.unused.running_mean, torch.zeros(4))
        before = copy.deepcopy(frozen.state_dict())
        reestimate_batchnorm(frozen, batches(images(40)))
        changed = {k for k, v in frozen.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {"6.running_mean", "6.running_var"}

    def test_a_network_without_it_is_told(self):
        model = timm.create_model("test_convnext_asap").eval()
        before = copy.deepcopy(model.state_dict())
        with pytest.warns(UserWarning, match="the network has no BatchNorm.*try refit=True"):
            report = heal(model, images(8, size=64))
        assert report.note == "the network has no BatchNorm: there are no statistics to move"
        assert same(before, model.state_dict())


class TestImages:
    def statistics(self, source, **options):
        model = network()
        convert(model)
        given = batches(source, **options)
        reestimate_batchnorm(model, given)
        return given.count, buffers(model)

    def test_every_form_gives_the_same(self):
        x = images(96)
        count, expected = self.statistics(x, batch_size=48)
        loader = DataLoader(TensorDataset(x, torch.arange(96)), batch_size=48)
        for source in (list(x.split(48)), iter(x.split(48)), loader, [(part, None) for part in x.split(48)]):
            again, found = self.statistics(source)
            assert again == count == 96
            assert same(found, expected)

    def test_batches_that_must_be_merged_have_one_size(self):
        with pytest.raises(ValueError, match="these differ in size"):
            list(batches([images(9), images(9, size=20)]))

    def test_batches_of_a_few_images_are_merged(self):
        x = images(70)
        _, expected = self.statistics([x[:32], x[32:]])
        _, found = self.statistics(list(x.split(1)))
        assert same(found, expected)

    @pytest.mark.parametrize("source", [lambda x: x, lambda x: x.split(20)])
    def test_limit_takes_the_first(self, source):
        x = images(90)
        count, found = self.statistics(source(x), limit=50, batch_size=50)
        assert count == 50
        _, expected = self.statistics(source(x[:50]), batch_size=50)
        assert same(found, expected)

    def test_limit_asks_for_no_batch_beyond_it(self):
        def endless():
            number = 0
            while True:
                yield images(32, seed=number)
                number += 1

        model = network()
        convert(model)
        assert heal(model, endless(), limit=64).images == 64

    def test_held_out_images_are_seen_by_no_later_pass_even_of_a_loader_that_shuffles(self):
        x = images(50)
        x[7] = x[5]  # a copy of a held-out image is held out with it
        loader = DataLoader(TensorDataset(x), batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(0))
        given = batches(loader)
        aside = torch.cat(given.hold_out())
        seen = torch.cat(list(given))
        assert len(aside) == 10
        assert not any(torch.equal(a, b) for a in aside for b in seen)
        assert len(seen) in (39, 40)  # whether the copy was held out depends on the order
        given = batches(x)
        assert torch.equal(torch.cat(given.hold_out()), x[::5])
        assert torch.equal(torch.cat(list(given)), x[[i for i in range(50) if i % 5 and i != 7]])

    @pytest.mark.parametrize(
        ("source", "error", "text"),
        [
            (3, TypeError, "expected a tensor, batches or a data loader, got int"),
            ({"a": 1}, TypeError, "got dict"),
            (["a"], TypeError, r"expected batches of tensors, or \(images, labels\), got str"),
            (images(4)[0], ValueError, r"expected batches of shape \(B, C, H, W\), got \(3, 16, 16\)"),
            (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), TypeError, "normalized for the model, got torch.uint8"),
            ([], ValueError, "expected at least 3 different ones, got 0"),
            (images(1), ValueError, "expected at least 3 different ones, got 1;"),
            (images(1).expand(9, -1, -1, -1), ValueError, "expected at least 3 different ones"),
        ],
    )
    def test_what_is_no_image_is_said(self, source, error, text):
        model = network()
        convert(model)
        with pytest.raises(error, match=text):
            heal(model, source)
