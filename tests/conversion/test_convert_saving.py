"""What was converted outlives the process: in JSON, in a state dict's metadata, beside anybody's weights."""

import copy
import json

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import timm_asap
from timm_asap import conversion_of, convert
from timm_asap.conversion.strided import AsapLayer
from timm_asap.errors import UserError


class Net(nn.Module):
    """A network of no registry, with a layer, a call, an upsampling layer and a stem that is left."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)

    def forward(self, x):
        return self.up(self.conv(F.max_pool2d(self.stem(x), 2)))


def image():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def converted(**options):
    torch.manual_seed(0)
    model = Net().eval()
    report = convert(model, **{"window": "hamming", "boundary": "reflect", **options})
    return model, report


def same(model, other):
    other.load_state_dict(model.state_dict())
    assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
    assert repr(other) == repr(model)
    torch.testing.assert_close(other.eval()(image()), model(image()))


@pytest.mark.parametrize("options", [{}, {"upsampling": True}, {"layout": "paper"}, {"stem": True}])
@pytest.mark.parametrize("source", ["report", "json", "file", "model", "state dict", "saved state dict", "folder"])
def test_every_source_repeats_the_conversion(source, options, tmp_path):
    model, report = converted(**options)
    if source == "file":
        (tmp_path / "conversion.json").write_text(report.to_json())
    elif source == "folder":
        timm_asap.save(model, tmp_path)
    elif source == "saved state dict":
        torch.save(model.state_dict(), tmp_path / "weights.pt")
    like = {
        "report": lambda: report,
        "json": report.to_json,
        "file": lambda: tmp_path / "conversion.json",
        "model": lambda: model,
        "state dict": model.state_dict,
        "saved state dict": lambda: torch.load(tmp_path / "weights.pt", weights_only=True),
        "folder": lambda: str(tmp_path),
    }[source]()
    other = Net()
    repeated = convert(other, like=like)
    rows = {row.name for row in (*report.sites, *report.upsampling) if row.converted}
    assert {row.name for row in repeated.converted} == rows
    same(model, other)
    assert not convert(other, like=like).converted  # twice changes nothing


def test_saving_and_restoring(tmp_path):
    model, _ = converted()
    model.conv.weight.data.add_(1)
    timm_asap.save(model, tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["model.safetensors", "timm_asap.json"]
    assert load_file(tmp_path / "new" / "folder" / "model.safetensors").keys() == Net().state_dict().keys()
    other = Net()
    assert len(timm_asap.restore(other, tmp_path / "new" / "folder").converted) == 2
    same(model, other)


def test_beside_another_librarys_weights(tmp_path):
    model, _ = converted()
    save_file(model.state_dict(), tmp_path / "model.safetensors")  # as save_pretrained does
    timm_asap.save(model, tmp_path, weights=False)
    other = Net()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    convert(other, like=tmp_path)
    same(model, other)


def test_the_state_dict_carries_a_marker_and_no_key():
    model, _ = converted()
    state = model.state_dict()
    assert state.keys() == Net().state_dict().keys()
    assert conversion_of(state)["converted"].keys() == {"", "conv"}
    assert conversion_of(Net().state_dict()) is None
    assert conversion_of(dict(state)) is None  # what lost its metadata
    wrapped = nn.Sequential()
    wrapped.add_module("module", model)  # as DistributedDataParallel names it
    other = Net()
    convert(other, like=wrapped.state_dict())
    same(model, other)
    twin = timm.create_model("resnet18_asap")
    sites = {name for name, layer in twin.named_modules() if isinstance(layer, AsapLayer)}
    assert conversion_of(twin)["converted"].keys() == conversion_of(twin.state_dict())["converted"].keys() == sites


def test_a_record_is_plain_json():
    model, report = converted()
    record = json.loads(report.to_json())
    assert record == json.loads(json.dumps(conversion_of(model)))
    entry = {"window": "hamming", "boundary": "reflect", "layout": "preserve", "upsampling": False}
    assert record["converted"] == {
        "": {"becomes": "AliasFreeCalls", **entry},
        "conv": {"becomes": "LowPassed", **entry},
    }


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    model, report = converted()
    other = nn.Sequential(nn.Conv2d(3, 4, 3, 2))
    with pytest.raises(ValueError, match="like: unknown module of this model 'conv'"):
        convert(other, like=report)
    assert type(other[0]) is nn.Conv2d

    class Other(Net):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

    other = Other()
    with pytest.raises(ValueError, match="like: conv was another layer there: Conv2d does not become"):
        convert(other, like=report)
    assert type(other) is Other
    other = Net()
    convert(other.conv)
    with pytest.raises(ValueError, match="like: conv is converted already, in another way"):
        convert(other, like=report)
    with pytest.raises(ValueError, match="no conversion in it"):
        convert(Net(), like=Net())
    with pytest.raises(TypeError, match="expected a model, a report, a state dict, JSON or a path, got int"):
        convert(Net(), like=3)
    with pytest.raises(UserError, match="there is no"):
        convert(Net(), like=tmp_path)
    record = conversion_of(model)
    record["converted"]["conv"]["becomes"] = "Unheard"
    with pytest.raises(ValueError, match="unknown operator 'Unheard'"):
        convert(Net(), like=record)
    with pytest.raises(ValueError, match="nothing in this model is converted"):
        timm_asap.save(Net(), tmp_path)
    with pytest.raises(ValueError, match="changed nothing"):
        convert(copy.deepcopy(model)).to_json()


def test_segmentation_models(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="optional")
    model = smp.Unet("resnet18", encoder_weights=None).eval()
    convert(model, upsampling=True, example=image())
    expected = model(image())
    model.save_pretrained(tmp_path)
    timm_asap.save(model, tmp_path, weights=False)
    plain = smp.from_pretrained(tmp_path).eval()
    assert not torch.allclose(plain(image()), expected)
    convert(plain, like=tmp_path)
    torch.testing.assert_close(plain(image()), expected)
