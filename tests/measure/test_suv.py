"""Standardized uptake from DICOM headers, against numbers worked by hand and vendors' ways of stating time."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from firstread.core.errors import GeometryError, InputError, SettingError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.measure.pet_header import PetHeader
from firstread.measure.suv import (
    StandardizedUptake,
    UptakeInRegions,
    body_surface_m2,
    lean_body_mass_kg,
    sphere_mean,
    suv_factor,
)

F18 = 6586.2


def header(**changes) -> Dataset:
    """FDG, 370 MBq at 08:30, scan at 09:30, 70 kg: 2^(-3600/6586.2) of the dose is left."""
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime = "083000.00"
    drug.RadionuclideTotalDose = "370000000"
    drug.RadionuclideHalfLife = str(F18)
    made = Dataset()
    made.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "DECAY", "RAN"]
    made.DecayCorrection, made.Units = "START", "BQML"
    made.SeriesDate = made.AcquisitionDate = "20240305"
    made.SeriesTime, made.AcquisitionTime = "093000", "093000.000"
    made.PatientWeight, made.PatientSize, made.PatientSex = "70", "1.75", "M"
    made.RadiopharmaceuticalInformationSequence = [drug]
    for name, value in changes.items():
        holder = drug if name in drug or name.startswith("RadiopharmaceuticalStart") else made
        if value is None:
            delattr(holder, name)
        else:
            setattr(holder, name, value)
    return made


def factor(*headers: Dataset, kind="bw") -> float:
    return suv_factor(PetHeader.of(headers), kind)


def test_body_weight_worked_by_hand():
    """One half-life after 370 MBq 185 MBq are left: 70 000 g / 185e6 Bq, so 5 kBq/mL are SUV 1.8919."""
    one = header(RadionuclideHalfLife="3600")
    assert 5000 * factor(one) == pytest.approx(1.891892, rel=1e-6)
    assert factor(header()) == pytest.approx(70000 / (370e6 * 2 ** (-3600 / F18)))


def test_all_of_the_dose_spread_evenly_is_one():
    """What SUV means: dose over body mass everywhere gives 1 at any time, in any body."""
    parsed = PetHeader.of([header()])
    left = 370e6 * math.exp(-math.log(2) * 3600 / F18)
    assert suv_factor(parsed) * left / 70000 == pytest.approx(1.0)
    lean = lean_body_mass_kg(70, 1.75, "M")
    assert suv_factor(parsed, "lbm") * left / (1000 * lean) == pytest.approx(1.0)
    assert suv_factor(parsed, "bsa") * left / (10_000 * body_surface_m2(70, 1.75)) == pytest.approx(1.0)


def test_lean_mass_and_surface():
    """1.10·70 - 128·0.16 = 56.52 kg (James); 9270·70 / (6680 + 216·22.857) = 55.86 kg (Janmahasatian); 1.848 m²."""
    assert lean_body_mass_kg(70, 1.75, "M") == pytest.approx(56.52)
    assert lean_body_mass_kg(70, 1.75, "M", janmahasatian=True) == pytest.approx(55.857, abs=1e-3)
    assert lean_body_mass_kg(70, 1.75, "F", janmahasatian=True) == pytest.approx(648900 / (8780 + 244 * 70 / 1.75**2))
    assert body_surface_m2(70, 1.75) == pytest.approx(1.848, abs=1e-3)
    assert factor(header(), kind="lbm") / factor(header()) == pytest.approx(56.52 / 70)


def test_corrected_to_the_injection_no_decay_is_left():
    assert factor(header(DecayCorrection="ADMIN")) == pytest.approx(70000 / 370e6)


def test_midnight_between_injection_and_scan():
    late = header(RadiopharmaceuticalStartTime="233000", SeriesTime="003000", AcquisitionTime="003000")
    assert factor(late) == pytest.approx(factor(header()))


def test_full_date_of_the_injection_wins():
    dated = header(RadiopharmaceuticalStartDateTime="20240304083000.00+0000")
    assert PetHeader.of([dated]).decay_s == pytest.approx(25 * 3600)


def test_later_beds_refer_to_the_series_time():
    beds = [header(AcquisitionTime=time) for time in ("094500", "093000", "094000")]
    assert factor(*beds) == pytest.approx(factor(header()))


def test_series_made_afterwards():
    """GE says when the scan began; others by the frame's reference time: mean count rate of 5 min at 149.6 s."""
    ge = header(SeriesTime="150000")
    ge.add_new((0x0009, 0x0010), "LO", "GEMS_PETD_01")
    ge.add_new((0x0009, 0x100D), "DT", "20240305093000.00")
    assert factor(ge) == pytest.approx(factor(header()))
    rate = math.log(2) / F18
    mean = math.log(rate * 300 / (1 - math.exp(-rate * 300))) / rate
    assert mean == pytest.approx(150 - rate * 300**2 / 24, abs=1e-3)  # to second order
    frame = header(SeriesTime="150000", AcquisitionTime="094000", ActualFrameDuration="300000",
                   FrameReferenceTime=f"{1000 * (600 + mean):.3f}")
    assert factor(frame) == pytest.approx(factor(header()), rel=1e-6)
    with pytest.raises(InputError, match="FrameReferenceTime"):
        factor(header(SeriesTime="150000"))


def test_uptake_that_is_stored_already():
    assert factor(header(Units="GML")) == 1.0
    assert factor(header(Units="GML", SUVType="LBM"), kind="bw") == pytest.approx(70 / 56.52)
    assert factor(header(Units="CM2ML"), kind="bsa") == 1.0
    philips = header(Units="CNTS")
    philips.add_new((0x7053, 0x1000), "DS", "0.000551")
    assert factor(philips) == pytest.approx(0.000551)
    activity = header(Units="CNTS")
    activity.add_new((0x7053, 0x1009), "DS", "2.5")
    assert factor(activity) == pytest.approx(2.5 * factor(header()))


@pytest.mark.parametrize("name", ["PatientWeight", "RadionuclideTotalDose", "RadionuclideHalfLife", "Units",
                                  "RadiopharmaceuticalStartTime", "SeriesTime", "DecayCorrection",
                                  "RadiopharmaceuticalInformationSequence"])
def test_what_is_missing_is_named(name):
    stated = "weight_kg" if name == "PatientWeight" else name
    with pytest.raises(InputError, match=f"without {stated}"):
        factor(header(**{name: None}))


def test_other_bad_headers():
    with pytest.raises(UnsupportedError, match="decay NONE"):
        factor(header(DecayCorrection="NONE"))
    with pytest.raises(UnsupportedError, match="corrected for"):
        factor(header(CorrectedImage=["DECAY"]))
    with pytest.raises(UnsupportedError, match="pixels in CNTS"):
        factor(header(Units="CNTS"))
    with pytest.raises(InputError, match="after the scan"):
        factor(header(RadiopharmaceuticalStartDateTime="20240306083000"))
    with pytest.raises(InputError, match="175"):
        factor(header(PatientSize="175"), kind="lbm")
    with pytest.raises(InputError, match="sex"):
        factor(header(PatientSex="O"), kind="lbm")
    with pytest.raises(InputError, match="HHMMSS"):
        factor(header(SeriesTime="9930"))
    with pytest.raises(SettingError, match="half-life"):
        factor(header(RadionuclideTotalDose="0"))


@given(st.floats(0, 36000), st.floats(30, 150))
def test_factor_grows_with_time_and_weight(seconds, weight):
    def at(s, w):
        return suv_factor(PetHeader(unit="BQML", dose_bq=3e8, half_life_s=F18, decay_s=s, weight_kg=w))
    assert at(seconds + F18, weight) == pytest.approx(2 * at(seconds, weight))
    assert at(seconds, 2 * weight) == pytest.approx(2 * at(seconds, weight))


def test_numbers_of_a_region():
    grid = Grid.from_spacing((15, 15, 15), (4.0, 4.0, 4.0))
    far = grid.points_mm()[0].norm(dim=-1)
    data = torch.where(far < 16, 8.0, 1.0)
    data[7, 7, 9] = 12.0
    image = Image(Rows.subjects(1), data[None, None, None], grid)
    inside = (far < 16).to(torch.uint8)[None, None, None]
    labels = HardLabels(image.rows, inside, grid, ("background", "lesion", "none"))
    found = UptakeInRegions()(image, labels)
    assert found["SUVmax lesion"].value.item() == 12.0
    assert found["SUVmean lesion"].value.item() == pytest.approx(8 + 4 / int((far < 16).sum()))
    assert 8.1 < found["SUVpeak lesion"].value.item() < 8.5  # 64 µL of 1 mL are 4 higher
    assert found["volume lesion"].value.item() == pytest.approx(int((far < 16).sum()) * 0.064)
    assert found["SUVmax none"].value is None and "none" in found["SUVmax none"].reason


def test_peak_sphere_holds_one_millilitre():
    """A plane's ramp has its centre's value; a lone voxel spreads to its share of 1 mL."""
    x = torch.arange(21.0).double().expand(11, 21, 21)
    assert torch.allclose(sphere_mean(x, [4.0, 2.0, 2.0])[5, 10, 5:16], x[5, 10, 5:16])
    lone = torch.zeros(11, 21, 21, dtype=torch.float64)
    lone[5, 10, 10] = 1
    assert sphere_mean(lone, [4.0, 2.0, 2.0]).max().item() == pytest.approx(0.016, rel=0.03)


def test_regions_on_another_grid_are_refused():
    grid = Grid.from_spacing((3, 4, 4), (4.0, 4.0, 4.0))
    image = Image(Rows.subjects(1), torch.ones(1, 1, 1, 3, 4, 4), grid)
    labels = HardLabels(image.rows, torch.ones(1, 1, 1, 3, 4, 4).to(torch.uint8), grid.flip("x"), ("background", "all"))
    with pytest.raises(GeometryError, match="one grid"):
        UptakeInRegions()(image, labels)


def test_the_stage_scales():
    grid = Grid.from_spacing((1, 2, 2), (4.0, 4.0, 4.0))
    image = Image(Rows.subjects(1), torch.full((1, 1, 1, 1, 2, 2), 5000.0), grid)
    stage = StandardizedUptake(header=PetHeader.of([header(RadionuclideHalfLife="3600")]))
    assert stage(image).data.mean().item() == pytest.approx(1.891892, rel=1e-6)
