"""Networks of plans: sizes, scales, gates, and one of MONAI's."""

import pytest
import torch

from firstread.core.errors import FormatError, SettingError
from firstread.nets.attention import AttentionGate
from firstread.nets.build import build_network
from firstread.nets.plan import ClassPlan, NetworkPlan, Plan
from firstread.nets.plan_file import plan_difference, read_plan, write_plan
from firstread.nets.resunet import ResUNet

CLASSES = (ClassPlan("background", 0), ClassPlan("a", 1), ClassPlan("b", 7))
KINDS = {"resunet": NetworkPlan(widths=(4, 8), strides=((2, 2), (2, 2)), blocks=(1, 1)),
         "whole": NetworkPlan(widths=(4, 8), strides=((1, 1), (2, 2)), blocks=(0, 1)),
         "unet": NetworkPlan(kind="unet", widths=(4, 8), deep_supervision=False),
         "attention": NetworkPlan(kind="attention", widths=(4, 8)), "fcn": NetworkPlan(kind="fcn", widths=(4, 8))}


def plan(network: NetworkPlan, mode="2.5d", patch=(16, 16)) -> Plan:
    return Plan(classes=CLASSES, mode=mode, spacing_mm=(None, 1.5, 1.5), patch=patch, network=network)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_any_size_gives_logits_of_it_and_gradients_everywhere(kind):
    torch.manual_seed(0)
    network = build_network(plan(KINDS[kind]))
    made = network(torch.randn(2, 3, 13, 18))
    assert made.shape == (2, 3, 13, 18)
    made.square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert missing == (["logits.0.weight", "logits.0.bias"] if kind == "resunet" else [])  # deep supervision's alone


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_slice_does_not_depend_on_its_batch(kind):
    torch.manual_seed(0)
    network = build_network(plan(KINDS[kind])).eval()
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


def test_thick_slices_are_not_pooled_and_all_scales_speak():
    net = ResUNet(channels_in=1, channels_out=2, widths=(4, 8, 8), strides=((1, 2, 2), (2, 2, 2), (1, 1, 1)),
                  blocks=(1, 1, 2))
    scales = net.scales(torch.randn(1, 1, 3, 17, 20))
    assert [tuple(s.shape[2:]) for s in scales] == [(3, 17, 20), (4, 10, 10), (2, 5, 5)]
    with torch.no_grad():
        x = torch.randn(1, 1, 4, 16, 16)
        torch.testing.assert_close(net(x), net.scales(x)[0])


def test_a_network_without_a_scale_or_a_stride_is_refused():
    for wrong in ({"widths": (4,), "strides": ((2, 2),), "blocks": (1,)},
                  {"widths": (4, 8), "strides": ((2, 2),), "blocks": (1, 1)},
                  {"widths": (4, 8), "strides": ((2, 2), (2, 2, 2)), "blocks": (1, 1)}):
        with pytest.raises(SettingError, match="widths"):
            ResUNet(channels_in=1, channels_out=2, **wrong)


def test_per_sample_gradients_are_those_of_each_sample_alone():
    torch.manual_seed(0)
    net = build_network(plan(KINDS["resunet"])).double()
    values, x = dict(net.named_parameters()), torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def loss(parameters, one):
        return torch.func.functional_call(net, parameters, one[None]).square().mean()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(values, x)
    alone = torch.func.grad(loss)(values, x[1])
    for name, value in alone.items():
        torch.testing.assert_close(each[name][1], value)


def test_an_open_gate_lets_all_through_and_a_closed_one_nothing():
    gate = AttentionGate(4, dims=2)
    x = torch.randn(1, 4, 5, 5)
    for bias, share in ((50.0, 1.0), (-50.0, 0.0)):
        torch.nn.init.zeros_(gate.psi.weight)
        torch.nn.init.constant_(gate.psi.bias, bias)
        torch.testing.assert_close(gate(x, x), share * x)


def test_a_monai_network_and_what_it_refuses():
    pytest.importorskip("monai")
    arguments = {"channels": [4, 8], "strides": [2]}
    network = build_network(plan(NetworkPlan(kind="monai", name="UNet", strides=(), arguments=arguments)))
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    with pytest.raises(SettingError, match=r"no network 'Nothing'"):
        build_network(plan(NetworkPlan(kind="monai", name="Nothing", strides=())))
    with pytest.raises(SettingError, match="arguments"):
        build_network(plan(NetworkPlan(kind="monai", name="UNet", strides=(), arguments={"colour": 1})))


def test_plans_survive_their_file_and_tell_what_differs(tmp_path):
    one = plan(KINDS["resunet"])
    write_plan(one, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == one
    other = plan(KINDS["fcn"])
    lines = plan_difference(one, other)
    assert "network.kind: resunet -> fcn" in lines and not plan_difference(one, one)


@pytest.mark.parametrize("old, new, text", [
    ("firstread.segment-plan/1", "nnUNetPlans", "nnUNetPlans"), ('"mode"', '"modus"', "modus"),
    ('"2.5d"', '"4d"', "4d"), ('"batch": 8', '"batch": "eight"', "eight"), ('"value": 7', '"value": 1', "values"),
    ('"patch": [16, 16]', '"patch": [16]', "axes"), ('"folds": 5', '"folds": 1', "folds")])
def test_a_plan_of_another_kind_is_refused_in_one_sentence(tmp_path, old, new, text):
    path = tmp_path / "plan.json"
    write_plan(plan(KINDS["resunet"]), path)
    changed = path.read_text().replace(old, new)
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises((FormatError, SettingError), match=text):
        read_plan(path)
