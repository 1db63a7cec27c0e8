"""What timm asks of its models, asked of a twin beside its plain model: whatever the one does, the other does.

The checks follow timm 1.0.31's own `tests/test_models.py` (forward, backward, default configurations, features,
intermediates, fx). Sizes, shapes and errors need no values: those checks run on the meta device.
"""

import warnings

import timm
import torch
from timm.models import get_arch_pretrained_cfgs

from timm_asap import convert
from timm_asap._timm import build_on_meta
from timm_asap.conversion.strided import AsapLayer

# None is the architecture's own size. A plain model that cannot take a size asks nothing of its twin.
SIZES = [None, (64, 96), (97, 131), (127, 128)]


def build(name, device="meta", **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # meta tensors cannot be initialized, and some models say so
        if device == "meta":
            return build_on_meta(lambda: timm.create_model(name, **kwargs)).to("meta")
        with torch.device(device):
            return timm.create_model(name, **kwargs)


def image(model, size=None, batch=1, device="meta"):
    channels, height, width = model.pretrained_cfg["input_size"]
    height, width = (height, width) if size is None or model.pretrained_cfg.get("fixed_input_size") else size
    return torch.zeros(batch, getattr(model, "in_chans", None) or channels, height, width, device=device)


def shapes(output):
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    if isinstance(output, dict):
        return {key: shapes(value) for key, value in output.items()}
    return [shapes(value) for value in output]


def state_shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def outcome(do, *args, **kwargs):
    """What came of a call: shapes, or the kind of error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = do(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return shapes(output)


def converted(model):
    return [layer for layer in model.modules() if isinstance(layer, AsapLayer)]


def both(name, **kwargs):
    """The plain model and the twin in eval mode, or what building the plain one raises, which the twin raises too."""
    asap = {key: kwargs.pop(key) for key in list(kwargs) if key.startswith("asap_")}
    try:
        plain = build(name, **kwargs).eval()
    except Exception as error:
        raised = type(error).__name__
    else:
        return plain, build(f"{name}_asap", **kwargs, **asap).eval()
    assert outcome(lambda: build(f"{name}_asap", **kwargs, **asap) and ()) == raised
    return None


def check_structure(name):
    """Keys, shapes, class, configuration; unknown arguments are refused; parameter groups are the plain model's."""
    plain, twin = both(name)
    assert state_shapes(twin) == state_shapes(plain)
    assert type(twin) is type(plain)
    assert converted(twin)
    cfgs = [dict(model.pretrained_cfg) for model in (plain, twin)]
    assert [cfg.pop("architecture") for cfg in cfgs] == [name, f"{name}_asap"]
    notes = [cfg.pop("notes", ()) or () for cfg in cfgs]
    assert notes[1][: len(notes[0])] == notes[0]
    assert cfgs[0] == cfgs[1]
    assert twin.default_cfg is twin.pretrained_cfg
    assert outcome(build, f"{name}_asap", not_an_argument=1) == "TypeError"
    for attribute in ("num_classes", "num_features", "head_hidden_size", "in_chans", "feature_info"):
        assert getattr(twin, attribute, None) == getattr(plain, attribute, None), attribute
    if hasattr(plain, "group_matcher"):
        matcher = [timm.models.group_parameters(m, m.group_matcher(coarse=False)) for m in (plain, twin)]
        assert matcher[0] == matcher[1]
    tags = [cfg.tag for cfg in get_arch_pretrained_cfgs(name).values()]
    assert [cfg.tag for cfg in get_arch_pretrained_cfgs(f"{name}_asap").values()] == tags


def check_sizes(name, layout="preserve", sizes=SIZES):
    """Logits and features of every size are the plain model's."""
    ran = 0
    for features_only in (False, True):
        models = both(name, features_only=features_only, asap_layout=layout)
        if models is None:
            continue
        plain, twin = models
        assert converted(twin)
        if features_only:
            assert twin.feature_info.reduction() == plain.feature_info.reduction()
            assert twin.feature_info.channels() == plain.feature_info.channels()
        with torch.no_grad():
            for size in sizes:
                expected = outcome(plain, image(plain, size))
                if not isinstance(expected, str):
                    assert outcome(twin, image(twin, size)) == expected, size
                    ran += 1
    assert ran or None not in sizes


def _as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


OPTIONS = [
    {"num_classes": 7, "in_chans": 1},
    {"num_classes": 0, "global_pool": ""},
    {"global_pool": "max"},
    {"drop_rate": 0.1, "drop_path_rate": 0.1},
    {"output_stride": 8},
    {"output_stride": 16, "features_only": True},
    {"features_only": True, "out_indices": (1, 2), "in_chans": 4},
]


def check_options(name):
    """The constructor's arguments do what they do for the plain model."""
    for options in OPTIONS:
        if models := both(name, **options):
            plain, twin = models
            assert state_shapes(twin) == state_shapes(plain), options
            with torch.no_grad():
                assert outcome(twin, image(twin)) == outcome(plain, image(plain)), options


def check_heads(name):
    """Features, heads, and classifiers that are taken off and put on."""
    plain, twin = both(name)

    def results(model):
        features = model.forward_features(image(model))
        yield shapes(features)
        yield outcome(model.forward_head, features, pre_logits=True)
        yield outcome(model.forward_head, features)
        for arguments in ((0,), (0, ""), (5, "avg"), (3,)):
            yield outcome(lambda arguments=arguments: model.reset_classifier(*arguments) or ())
            yield getattr(model, "num_classes", None)
            yield outcome(model, image(model))
            yield outcome(lambda: [p for layer in _as_tuple(model.get_classifier()) for p in layer.parameters()])

    with torch.no_grad():
        for number, (expected, result) in enumerate(zip(results(plain), results(twin), strict=True)):
            assert result == expected, number


def check_intermediates(name):
    """`forward_intermediates` and every feature wrapper give the plain model's maps."""
    plain, twin = both(name)
    with torch.no_grad():
        if hasattr(plain, "forward_intermediates"):
            for options in ({}, {"indices": 2}, {"intermediates_only": True, "norm": False}):
                expected = outcome(plain.forward_intermediates, image(plain), **options)
                assert outcome(twin.forward_intermediates, image(twin), **options) == expected
        for feature_cls in ("list", "dict", "hook", "getter"):
            if models := both(name, features_only=True, feature_cls=feature_cls):
                plain, twin = models
                assert converted(twin)
                assert outcome(twin, image(twin)) == outcome(plain, image(plain)), feature_cls


def check_gradients(name):
    """In training mode every parameter that has a gradient in the plain model has one in the twin."""
    reached = []
    for model in both(name, num_classes=42):
        model.train()
        output = model(image(model, batch=2))
        sum(y.sum() for y in _as_tuple(output)).backward()
        reached.append({key for key, parameter in model.named_parameters() if parameter.grad is not None})
    assert reached[0] == reached[1]


def small_size(name, size=(96, 128)):
    """A size that is cheap to compute, where the plain model takes it."""
    plain = build(name).eval()
    with torch.no_grad():
        return None if isinstance(outcome(plain, image(plain, size)), str) else size


def check_values(name, folder):
    """Real numbers: finite; the head continues the features; checkpointing and saving change nothing."""
    torch.manual_seed(0)
    model = timm.create_model(f"{name}_asap", num_classes=10).eval()
    x = torch.randn_like(image(model, small_size(name), device="cpu"))
    with torch.no_grad():
        y = model(x)
        assert torch.isfinite(y).all()
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), y)
        if hasattr(model, "forward_intermediates"):
            final, _ = model.forward_intermediates(x)
            torch.testing.assert_close(final, model.forward_features(x), rtol=1e-4, atol=1e-5)
        if not _shares_tensors(model):  # timm cannot save such a model at all
            timm.models.save_for_hf(model, folder, safe_serialization=True)
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            assert loaded.pretrained_cfg["architecture"] == f"{name}_asap"
            assert repr(loaded) == repr(model)
            torch.testing.assert_close(loaded(x), y)
    if outcome(lambda: model.set_grad_checkpointing() or ()) == []:
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)
    model.train()
    sum(z.square().mean() for z in _as_tuple(model(torch.cat([x, x.flip(-1)])))).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def _shares_tensors(model):
    addresses = [value.data_ptr() for value in model.state_dict().values() if value.numel()]
    return len(addresses) > len(set(addresses))


def check_fx(name):
    """Features by fx are those of the architecture's own wrapper, wherever they are for the plain model."""
    size = small_size(name)
    if both(name, features_only=True, feature_cls="fx") is None:
        return  # timm cannot trace it
    if not _fx_agrees(f"{name}_asap", size):
        assert not _fx_agrees(name, size)


def _fx_agrees(name, size):
    outputs = []
    for options in ({}, {"feature_cls": "fx"}):
        torch.manual_seed(0)
        model = build(name, "cpu", features_only=True, **options).eval()
        x = torch.randn_like(image(model, size, device="cpu"))
        with torch.no_grad():
            outputs.append(model(x))
    wrapped, traced = outputs
    return shapes(wrapped) == shapes(traced) and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(wrapped, traced, strict=True)
    )


def check_complete(name):
    """A watched forward pass of the plain model shows just what reading its modules does, and nothing is missed."""
    model = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = convert(model, input_size=tuple(model.pretrained_cfg["input_size"]), dry_run=True)
    assert report.complete, report
    read = convert(model, dry_run=True)
    assert [(site.name, site.status) for site in read.sites] == [(site.name, site.status) for site in report.sites]


def check_symbolic_trace(name):
    """`torch.fx.symbolic_trace` takes the twin where it takes the plain model, and its modules are the same."""
    plain, twin = both(name)
    try:
        expected = torch.fx.symbolic_trace(plain)
    except Exception:
        return  # not for tracing
    traced = torch.fx.symbolic_trace(twin)
    modules = [
        [str(node.target) for node in graph.graph.nodes if node.op == "call_module"] for graph in (traced, expected)
    ]
    assert set(modules[1]) <= set(modules[0]) | {name for name, layer in twin.named_modules() if converted(layer)}
    with torch.no_grad():
        assert outcome(traced, image(twin)) == outcome(expected, image(plain))
