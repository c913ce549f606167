"""Deformable registration of volumes of about 96³ beside ANTs, elastix, SimpleITK and dipy, at the Dice each reaches.

``python bench/registration.py --brain t1_scan_with_labels.npz [--mni FOLDER] [--peers PYTHON]``. Two tasks at 2 mm:

* semi-simulated: the brain scan with its 35 larger labels, and itself moved by a known map without folds that is *not*
  the flow of a stationary velocity (two flows after one another), its contrast changed, shaded and made noisy;
* real: the brain scan on the MNI152 template (nilearn's files in ``--mni``), affinely aligned before by Firstread; grey
  and white matter, whose definitions differ between the two, so Dice is comparable between rows only.

Every tool gets the same pair in memory, one thread, a process of its own, and warps the same labels by nearest
neighbour; CPU seconds of the registration alone, imports apart. Folds: voxels inside the brain with a Jacobian at or
below zero, of the coordinates as each tool warps them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                                  "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "NUMBA_NUM_THREADS")}
TOOLS = {"firstread": "firstread", "firstread, fewer steps": "firstread", "firstread, more steps": "firstread",
         "ANTs SyN, CC": "antspyx",
         "ANTs SyN, MI": "antspyx", "dipy SyN, CC": "dipy", "elastix B-spline, MI": "itk-elastix",
         "SimpleITK demons": "SimpleITK"}
COMMANDS = {
    "firstread": "find_velocity(fixed, moving)",
    "firstread, fewer steps": "Effort(shrink=(4, 2), iterations=(60, 40))",
    "firstread, more steps": "Effort(iterations=(60, 60, 100), fluid=1.0)",
    "ANTs SyN, CC": "registration('SyNOnly', syn_metric='CC', syn_sampling=2, reg_iterations=(100, 70, 20))",
    "ANTs SyN, MI": "registration('SyNOnly', reg_iterations=(100, 70, 20))",
    "dipy SyN, CC": "SymmetricDiffeomorphicRegistration(CCMetric(3), [10, 10, 5]), the tutorial's",
    "elastix B-spline, MI": "default map 'bspline', FinalGridSpacing 10 mm",
    "SimpleITK demons": "histogram matching, FastSymmetricForcesDemons, 3 levels, 60/40/20, sd 1.5",
}


def make_simulated(brain: Path, out: Path, seed: int) -> None:
    import torch

    from firstread.ops.resample import sample
    from firstread.ops.separable import smooth
    from firstread.ops.velocity import exponential, identity_index, sample_at

    stored = np.load(brain)
    volume = smooth(torch.from_numpy(stored["vol"]).float(), (0.8, 0.8, 0.8))[::2, ::2, ::2].contiguous()
    labels = torch.from_numpy(stored["seg"]).float()[::2, ::2, ::2].contiguous()
    generator = torch.Generator().manual_seed(seed)

    def velocity(sd: float, size: float) -> torch.Tensor:
        made = smooth(torch.randn(1, 3, *volume.shape, generator=generator), (sd, sd, sd))
        return made * size / made.norm(dim=1).flatten().quantile(0.95)

    first, second = exponential(velocity(10.0, 4.0)), exponential(velocity(6.0, 2.5))
    field = second + sample_at(first, second)
    fixed = sample_at(volume[None, None], field)[0, 0]
    index = identity_index(field) + field.movedim(1, -1)
    fixed_labels = sample(labels[None, None], index, mode="nearest", outside="border")[0, 0]
    shade = smooth(torch.randn(volume.shape, generator=generator), (20.0, 20.0, 20.0))
    fixed = fixed.clamp_min(0) ** 0.8 * (1 + 0.15 * shade / shade.std()).clamp(0.5, 1.5)
    fixed = (fixed + 0.02 * torch.randn(volume.shape, generator=generator)).clamp_min(0)
    np.savez(out, fixed=fixed.numpy(), moving=volume.numpy(), fixed_labels=fixed_labels.numpy().astype(np.float32),
             moving_labels=labels.numpy().astype(np.float32), field=field[0].numpy())


def make_real(brain: Path, mni: Path, out: Path) -> None:
    import nibabel
    import torch

    from firstread.analyze.register import seen_on, unit_range
    from firstread.analyze.register_linear import register_linear
    from firstread.core.geometry import Grid, Transform
    from firstread.ops.separable import smooth
    from firstread.ops.warp import warp

    def template(name: str) -> torch.Tensor:
        image = nibabel.load(mni / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        array = np.asarray(nibabel.as_closest_canonical(image).dataobj, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(array[::-1, :, ::-1].transpose(0, 2, 1)))  # to LIA, as the scan

    t1, grey, white = (smooth(template(name), (0.8, 0.8, 0.8))[::2, ::2, ::2].contiguous() for name in ("t1", "gm",
                                                                                                     "wm"))
    stored = np.load(brain)
    scan = smooth(torch.from_numpy(stored["vol"]).float(), (0.8, 0.8, 0.8))[::2, ::2, ::2].contiguous()
    seg = torch.from_numpy(stored["seg"]).long()[::2, ::2, ::2]
    matter = torch.zeros(scan.shape)
    for values, number in (((3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 17, 53, 18, 54, 26, 58), 1.0),
                           ((2, 41, 7, 46, 251, 252, 253, 254, 255), 2.0)):
        matter[torch.isin(seg, torch.tensor(values))] = number
    scale = 255.0 if float(grey.max()) > 2 else 1.0
    grey, white = grey / scale, white / scale
    fixed_labels = torch.where(white > 0.5, 2.0, torch.where(grey > 0.5, 1.0, 0.0))
    one, two = (Grid.from_spacing(tuple(image.shape), (2.0, 2.0, 2.0)) for image in (t1, scan))
    unit, other = (unit_range(image[None, None, None]) for image in (t1, scan))
    matrix = register_linear(unit, one, other, two, kind="affine").matrix
    start = Transform(matrix[None], None, one, two)
    moving = seen_on(scan, two, start, one)[0]
    labels = warp(matter[None, None], two, start, one, mode="nearest")[0, 0]
    np.savez(out, fixed=unit.clamp_min(0).numpy(), moving=moving.numpy(), fixed_labels=fixed_labels.numpy(),
             moving_labels=labels.numpy())


def by_firstread(tool: str, fixed, moving, others):
    import torch

    from firstread.analyze.register_deformable import Effort, displacement, find_velocity
    from firstread.ops.resample import sample
    from firstread.ops.velocity import identity_index

    torch.set_num_threads(1)
    efforts = {"firstread, fewer steps": Effort(shrink=(4, 2), iterations=(60, 40)),
               "firstread, more steps": Effort(iterations=(60, 60, 100), fluid=1.0)}
    effort = efforts.get(tool, Effort())
    one, two = (torch.from_numpy(image / np.quantile(image, 0.999)) for image in (fixed, moving))

    def run():
        return displacement(find_velocity(one[None], two[None], effort=effort), tuple(one.shape))

    u, seconds = timed(run)
    index = identity_index(u) + u.movedim(1, -1)
    return [sample(torch.from_numpy(image)[None, None], index, mode=mode, outside="border")[0, 0].numpy()
            for image, mode in others], seconds


def by_ants(tool: str, fixed, moving, others):
    import ants

    one, two = (ants.from_numpy(image.astype(np.float32), spacing=(2.0, 2.0, 2.0)) for image in (fixed, moving))
    extra = {"syn_metric": "CC", "syn_sampling": 2} if "CC" in tool else {}
    found, seconds = timed(lambda: ants.registration(one, two, "SyNOnly", reg_iterations=(100, 70, 20),
                                                     initial_transform="Identity", **extra))
    return [ants.apply_transforms(one, ants.from_numpy(image, spacing=(2.0, 2.0, 2.0)), found["fwdtransforms"],
                                  interpolator={"nearest": "nearestNeighbor", "bilinear": "linear"}[mode]).numpy()
            for image, mode in others], seconds


def by_dipy(tool: str, fixed, moving, others):
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    eye = np.diag([2.0, 2.0, 2.0, 1.0])
    found, seconds = timed(lambda: SymmetricDiffeomorphicRegistration(CCMetric(3), level_iters=[10, 10, 5]).optimize(
        fixed, moving, static_grid2world=eye, moving_grid2world=eye))
    return [found.transform(image, interpolation={"nearest": "nearest", "bilinear": "linear"}[mode])
            for image, mode in others], seconds


def by_elastix(tool: str, fixed, moving, others):
    import itk

    def to_itk(image):
        made = itk.image_from_array(image.astype(np.float32))
        made.SetSpacing((2.0, 2.0, 2.0))
        return made

    parameters = itk.ParameterObject.New()
    chosen = parameters.GetDefaultParameterMap("bspline", 4, 10.0)
    parameters.AddParameterMap(chosen)
    (_, found), seconds = timed(lambda: itk.elastix_registration_method(
        to_itk(fixed), to_itk(moving), parameter_object=parameters, number_of_threads=1))
    made = []
    for image, mode in others:
        found.SetParameter("FinalBSplineInterpolationOrder", "0" if mode == "nearest" else "1")
        made.append(itk.array_from_image(itk.transformix_filter(to_itk(image), found)))
    return made, seconds


def by_simpleitk(tool: str, fixed, moving, others):
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def to_sitk(image):
        made = sitk.GetImageFromArray(image.astype(np.float32))
        made.SetSpacing((2.0, 2.0, 2.0))
        return made

    one, two = to_sitk(fixed), to_sitk(moving)

    def run():
        matched = sitk.HistogramMatching(two, one, 256, 7)
        field = None
        for shrink, steps in ((4, 60), (2, 40), (1, 20)):
            small = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, shrink), [shrink] * 3) if shrink > 1 else image
                     for image in (one, matched)]
            method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
            method.SetNumberOfIterations(steps)
            method.SetStandardDeviations(1.5)
            if field is None:
                field = method.Execute(small[0], small[1])
            else:
                field = method.Execute(small[0], small[1], sitk.Resample(field, small[0]))
        return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))

    found, seconds = timed(run)
    kinds = {"nearest": sitk.sitkNearestNeighbor, "bilinear": sitk.sitkLinear}
    return [sitk.GetArrayFromImage(sitk.Resample(to_sitk(image), one, found, kinds[mode], 0.0))
            for image, mode in others], seconds


RUN = {"firstread": by_firstread, "antspyx": by_ants, "dipy": by_dipy, "itk-elastix": by_elastix,
       "SimpleITK": by_simpleitk}


def timed(run):
    before = resource.getrusage(resource.RUSAGE_SELF)
    made = run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return made, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(tool: str, data: Path) -> dict[str, float | str]:
    """In this process: Dice of the labels, folds inside the brain, error where the map is known, CPU seconds."""
    stored = np.load(data)
    fixed, moving = stored["fixed"], stored["moving"]
    places = [np.ascontiguousarray(p.astype(np.float32)) for p in np.indices(fixed.shape)]
    others = [(stored["moving_labels"], "nearest"), *((p, "bilinear") for p in places)]
    (labels, *moved), seconds = RUN[TOOLS[tool]](tool, fixed, moving, others)
    truth = stored["fixed_labels"]
    slopes = np.stack([np.stack(np.gradient(m), axis=-1) for m in moved], axis=-2)
    inside = truth > 0
    result: dict[str, float | str] = {
        "dice": dice(labels, truth), "before": dice(stored["moving_labels"], truth), "seconds": seconds,
        "folds": int((np.linalg.det(slopes)[inside] <= 0).sum()), "voxels": int(inside.sum())}
    if "field" in stored:
        wanted = [p + stored["field"][2 - k] for k, p in enumerate(places)]
        apart = np.sqrt(sum((m - w) ** 2 for m, w in zip(moved, wanted, strict=True)))
        result["error_mm"] = float(2 * apart[inside].mean())
    try:
        result["version"] = version(TOOLS[tool])
    except PackageNotFoundError:
        result["version"] = "?"
    return result


def dice(one: np.ndarray, two: np.ndarray) -> float:
    values = [v for v in np.unique(two) if v > 0 and (two == v).sum() > 100]
    return float(np.mean([2 * ((one == v) & (two == v)).sum() / ((one == v).sum() + (two == v).sum()) for v in values]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brain", type=Path, required=True)
    parser.add_argument("--mni", type=Path)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has antspyx, dipy and itk-elastix")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "DATA"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]))))
        return
    with tempfile.TemporaryDirectory() as home:
        tasks = {"semi-simulated": Path(home) / "simulated.npz"}
        make_simulated(given.brain, tasks["semi-simulated"], given.seed)
        if given.mni is not None:
            tasks["real"] = Path(home) / "real.npz"
            make_real(given.brain, given.mni, tasks["real"])
        for name, data in tasks.items():
            print(f"\n{name}\n\n| tool | Dice | error, mm | folds | CPU s |\n|---|---|---|---|---|", flush=True)
            for tool in given.tools:
                python = sys.executable if tool.startswith("firstread") else given.peers
                done = subprocess.run([python, __file__, "--brain", str(given.brain), "--one", tool, str(data)],
                                      env={**os.environ, **THREADS}, capture_output=True, text=True)
                if done.returncode:
                    print(f"| {tool} | failed: {done.stderr.strip().splitlines()[-1][:120]} |", flush=True)
                    continue
                found = json.loads(done.stdout.strip().splitlines()[-1])
                error = f"{found['error_mm']:.2f}" if "error_mm" in found else ""
                print(f"| {tool} {found['version']} | {found['dice']:.3f} (from {found['before']:.3f}) | {error} | "
                      f"{found['folds']} of {found['voxels']} | {found['seconds']:.1f} |", flush=True)
    print("\n" + "\n".join(f"* {tool}: `{COMMANDS[tool]}`" for tool in given.tools))


if __name__ == "__main__":
    main()
