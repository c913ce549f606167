"""Tables of the segmentation evidence, on made-up scores."""

import pytest
import torch

from firstread.nets.plan import ClassPlan, NetworkPlan, Plan
from firstread.recipes.evidence_segment import ARMS, NAMES, base_plan, curve_plan
from firstread.recipes.heart_segment import network as heart_network
from firstread.recipes.segment_tables import TITLES, by_patient, difference, page


def rows(offset: float) -> list[dict]:
    made = []
    for patient in range(6):
        for phase in ("ED", "ES"):
            score = 0.7 + 0.02 * patient + offset
            made.append({"case": f"p{patient}_{phase}", "patient": f"p{patient}",
                         "dice": dict.fromkeys(NAMES[1:], score) | ({"RV cavity": None} if patient == 5 else {})})
    return made


def test_a_patient_counts_once_and_what_is_absent_not_at_all():
    assert by_patient(rows(0.0), "LV cavity")["p0"] == pytest.approx(0.7)
    assert len(by_patient(rows(0.0), "RV cavity")) == 5 and len(by_patient(rows(0.0), None)) == 6
    assert difference(rows(0.1), rows(0.0), None).startswith("0.100 [0.100, 0.100]")


def test_the_page_states_its_budget_and_pairs():
    plan = Plan(classes=(ClassPlan("background", 0), ClassPlan("a", 1)), mode="2.5d", spacing_mm=(None, 2.0, 2.0),
                patch=(80, 80))
    arms = {arm: rows(0.0) for arm in ARMS}
    cost = {f"{arm}-0-x": {"parameters": 1_500_000, "all_s": 60.0} for arm in (*ARMS, "curve-1-random")}
    found = {"plan": plan.as_dict(), "arms": arms, "curve_steps": 80, "draws": 2,
             "curve": {"0 phantom": rows(0.0), "1 random": rows(-0.2), "1 phantom": rows(0.0), "1 self": rows(-0.1)},
             "nnunet_steps": 50, "classical": {"automatic": rows(-0.3), "click": rows(-0.1)}, "painting_steps": 120,
             "patients": 6, "first": ["p0", "p1", "p2"], "cost": cost}
    text = page(found, NAMES[1:])
    assert "A small budget on purpose" in text and "1000 steps of 8 patches of 80×80" in text
    assert "| 1 | phantom | 0.200 [0.200, 0.200]; t" in text and "| 1 | self | 0.100 [0.100, 0.100]; t" in text
    assert "MONAI `UNet`" in text and "nnU-Net 2.8" not in text
    assert "| motion, threshold, roundest piece | 0.300 [0.300, 0.300]" in text
    for arm, change in (("nnunet", -0.7), ("equal", -0.5)):
        found["arms"][arm], found["cost"][f"{arm}-0"] = rows(change), {"parameters": 7_800_000, "all_s": 60.0}
    text = page(found, NAMES[1:])
    assert "50 steps, where they make 1000" in text and f"| {TITLES['nnunet']} | 7.80 M |" in text
    assert f"| {TITLES['equal']} | 0.500 [0.500, 0.500]" in text and f"| {TITLES['nnunet']} | 0.7" not in text


def test_our_arm_is_the_smaller_one_and_the_curve_takes_the_default_weight():
    pytest.importorskip("monai")
    from firstread.jobs.segment_weights import start_from
    from firstread.nets.build import build_network

    found = {"shape": {"median": [10.0, 216.0, 256.0]}, "spacing": {"median": [9.0, 1.5, 1.5]}, "millimetres": True,
             "patients": 20, "modalities": ["MR"], "intensity": [{"minimum": 0.0}],
             "classes": [{"name": n, "value": v} for v, n in enumerate(NAMES)]}
    plan = base_plan(found, steps=3)
    sizes = [sum(p.numel() for p in build_network(Plan(**{**vars(plan), "network": n})).parameters())
             for n in ARMS.values()]
    assert sizes[0] < sizes[1]
    curve = build_network(curve_plan(plan, steps=3))
    assert start_from(curve, "heart-sax") == []
    assert set(curve.state_dict()) == set(heart_network().state_dict())
    assert isinstance(curve_plan(plan, steps=3).network, NetworkPlan)
    assert curve(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 32, 32)
