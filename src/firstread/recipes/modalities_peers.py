"""Other programs on the pairs of :mod:`firstread.recipes.evidence_modalities_real`: ``PYTHON modalities_peers.py TOOL
TASK.npz``, in an environment that need not have Firstread (numpy and the tool suffice).

TASK.npz: ``fixed``, ``moving`` (z, y, x), ``fixed_affine``, ``moving_affines`` (starts, 4, 4: index (x, y, z) to LPS+
millimetres), ``kind`` (rigid, affine), ``flat``. Writes TASK.TOOL.json: ``matrices`` (fixed millimetres to moving ones)
of each start, CPU seconds of each, the version. Settings are those of each tool's own introduction:

    SimpleITK   the notebooks' rigid registration: centred on the geometry, Mattes MI, 50 bins, random 1 % of the voxels
                (20 000 at least), gradient descent, shrink 4/2/1
    ANTs        registration(type_of_transform="Rigid" or "Affine"): begins at the centres of mass, Mattes MI
    elastix     its default map "rigid" or "affine", transform initialized at the geometrical centre
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

PACKAGES = {"SimpleITK": "SimpleITK", "ANTs": "antspyx", "elastix": "itk-elastix"}
SEED = 1


def header(affine: np.ndarray, flat: bool) -> tuple[list[float], list[float], np.ndarray]:
    """Origin, spacing and direction of an affine, in two dimensions where the image is flat."""
    n = 2 if flat else 3
    columns = affine[:n, :n]
    spacing = np.linalg.norm(columns, axis=0)
    return affine[:n, 3].tolist(), spacing.tolist(), columns / spacing


def matrix_of(linear: np.ndarray, centre: np.ndarray, shift: np.ndarray) -> list[list[float]]:
    """``x -> A (x - c) + c + t`` as a 4 x 4 matrix."""
    n = len(centre)
    made = np.eye(4)
    made[:n, :n] = linear
    made[:n, 3] = centre + shift - linear @ centre
    return made.tolist()


def by_simpleitk(fixed: np.ndarray, moving: np.ndarray, fixed_affine: np.ndarray, moving_affine: np.ndarray,
                 kind: str, flat: bool) -> list[list[float]]:
    """SimpleITK's map of fixed to moving millimetres, 4 x 4."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def image(data, affine):
        made = sitk.GetImageFromArray(data[0] if flat else data)
        origin, spacing, direction = header(affine, flat)
        made.SetOrigin(origin)
        made.SetSpacing(spacing)
        made.SetDirection(direction.ravel().tolist())
        return made

    one, two = image(fixed, fixed_affine), image(moving, moving_affine)
    n = 2 if flat else 3
    empty = {(2, "rigid"): sitk.Euler2DTransform, (3, "rigid"): sitk.Euler3DTransform}.get((n, kind))
    transform = sitk.CenteredTransformInitializer(one, two, empty() if empty else sitk.AffineTransform(n),
                                                  sitk.CenteredTransformInitializerFilter.GEOMETRY)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, max(0.01, 20000 / fixed.size)), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(learningRate=1.0, numberOfIterations=100, convergenceMinimumValue=1e-6,
                                         convergenceWindowSize=10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=False)
    found = method.Execute(one, two)
    at = [np.array(found.TransformPoint(point)) for point in (np.zeros(n), *np.eye(n))]
    return matrix_of(np.stack([p - at[0] for p in at[1:]], axis=1), np.zeros(n), at[0])


def by_ants(fixed: np.ndarray, moving: np.ndarray, fixed_affine: np.ndarray, moving_affine: np.ndarray,
            kind: str, flat: bool) -> list[list[float]]:
    """ANTs' map of fixed to moving millimetres, 4 x 4."""
    import ants

    def image(data, affine):
        origin, spacing, direction = header(affine, flat)
        array = np.ascontiguousarray((data[0] if flat else data).T)
        return ants.from_numpy(array, origin=origin, spacing=spacing, direction=direction)

    found = ants.registration(image(fixed, fixed_affine), image(moving, moving_affine),
                              {"rigid": "Rigid", "affine": "Affine"}[kind], random_seed=SEED)
    read = ants.read_transform(found["fwdtransforms"][0])
    n = 2 if flat else 3
    numbers = np.array(read.parameters)
    return matrix_of(numbers[:n * n].reshape(n, n), np.array(read.fixed_parameters[:n]), numbers[n * n:n * n + n])


def by_elastix(fixed: np.ndarray, moving: np.ndarray, fixed_affine: np.ndarray, moving_affine: np.ndarray,
               kind: str, flat: bool) -> list[list[float]]:
    """elastix' map of fixed to moving millimetres, 4 x 4."""
    import itk

    def image(data, affine):
        made = itk.image_from_array(np.ascontiguousarray(data[0] if flat else data))
        origin, spacing, direction = header(affine, flat)
        made.SetOrigin(origin)
        made.SetSpacing(spacing)
        made.SetDirection(direction)
        return made

    parameters = itk.ParameterObject.New()
    chosen = parameters.GetDefaultParameterMap(kind)
    chosen["AutomaticTransformInitialization"] = ["true"]
    chosen["RandomSeed"] = [str(SEED)]
    parameters.AddParameterMap(chosen)
    with tempfile.TemporaryDirectory() as folder:
        _, found = itk.elastix_registration_method(image(fixed, fixed_affine), image(moving, moving_affine),
                                                   parameter_object=parameters, number_of_threads=1,
                                                   output_directory=folder)
    numbers = np.array([float(v) for v in found.GetParameter(0, "TransformParameters")])
    centre = np.array([float(v) for v in found.GetParameter(0, "CenterOfRotationPoint")])
    if kind == "affine":
        n = len(centre)
        return matrix_of(numbers[:n * n].reshape(n, n), centre, numbers[n * n:])
    if flat:
        c, s = np.cos(numbers[0]), np.sin(numbers[0])
        return matrix_of(np.array([[c, -s], [s, c]]), centre, numbers[1:])
    (cx, cy, cz), (sx, sy, sz) = np.cos(numbers[:3]), np.sin(numbers[:3])
    about_x, about_y, about_z = (np.array(m) for m in (
        [[1, 0, 0], [0, cx, -sx], [0, sx, cx]], [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]],
        [[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]))
    zyx = found.GetParameterMap(0).get("ComputeZYX", ("false",))[0] == "true"
    turn = about_z @ about_y @ about_x if zyx else about_z @ about_x @ about_y
    return matrix_of(turn, centre, numbers[3:])


RUN = {"SimpleITK": by_simpleitk, "ANTs": by_ants, "elastix": by_elastix}


def main(tool: str, task: str) -> None:
    """The answers of ``tool`` for every start of the file ``task``, written beside it."""
    with np.load(task) as stored:
        given = {name: stored[name] for name in stored.files}
    fixed, moving = (given[name].astype(np.float32) for name in ("fixed", "moving"))
    matrices, seconds = [], []
    for affine in given["moving_affines"]:
        started = time.process_time()
        try:
            found = RUN[tool](fixed, moving, given["fixed_affine"], affine, str(given["kind"]), bool(given["flat"]))
        except RuntimeError as error:  # a tool that gives up on a start has failed on it
            print(f"{tool}: {error}".splitlines()[-1][:200], file=sys.stderr)
            found = None
        matrices.append(found)
        seconds.append(time.process_time() - started)
    sys.stdout.flush()
    Path(task).with_suffix(f".{tool}.json").write_text(
        json.dumps({"matrices": matrices, "seconds": seconds, "version": version(PACKAGES[tool])}))


if __name__ == "__main__":
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    main(*sys.argv[1:])
