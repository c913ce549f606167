"""DICOM series to an array of Hounsfield units beside SimpleITK, pydicom, MONAI and dicom2nifti.

``python bench/dicom_load.py [-o bench/results]`` writes the series (200 slices of 512² uncompressed, JPEG 2000 and RLE;
5,000 slices of 256²) to a temporary folder, loads each with every tool in a process of its own and writes
``dicom_load.md``. Seconds are the least of the repetitions after one to warm the file cache (other work only adds);
imports are shown apart. Every tool's array is compared with pydicom's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

TOOLS = {"firstread": "firstread", "pydicom loop": "pydicom", "SimpleITK": "SimpleITK", "MONAI": "monai",
         "dicom2nifti": "dicom2nifti"}
JOBS = {"raw": ("200 x 512², uncompressed", 200, 512), "rle": ("200 x 512², RLE", 200, 512),
        "j2k": ("200 x 512², JPEG 2000 lossless", 200, 512), "ct5000": ("5,000 x 256², uncompressed", 5000, 256)}
SYNTAX = {"rle": "1.2.840.10008.1.2.5", "j2k": "1.2.840.10008.1.2.4.90"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], Path(arguments.one[1]), arguments.repeat)))
        return
    rows = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for job in arguments.jobs:
            folder = Path(temporary) / job
            write_series(folder, JOBS[job][1], JOBS[job][2], SYNTAX.get(job))
            repeat = arguments.repeat if job != "ct5000" else 1
            for tool in arguments.tools:
                rows.append((job, tool, run_apart(tool, folder, repeat, arguments.threads)))
                print(*rows[-1], flush=True)
                (arguments.output / "dicom_load.md").write_text(report(rows, arguments), encoding="utf-8")


def write_series(folder: Path, count: int, size: int, syntax: str | None) -> None:
    """A body with noise, 12 bits, a header of the usual length; rescale to Hounsfield units."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:size * 1j, -1:1:size * 1j]
    body = (x**2 / 0.8 + y**2 / 0.5 < 1) * (1000 + 60 * np.sin(9 * x) * np.cos(7 * y))
    noise = draw.normal(0, 15, (8, size, size))
    study, series, frame = (pydicom.uid.generate_uid() for _ in range(3))
    for z in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = pydicom.uid.CTImageStorage, "1.2.840.10008.1.2.1"
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "Bench^Mark", "1"
        dataset.ImageType, dataset.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "None"
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20200101"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101010"
        dataset.SeriesDescription, dataset.ProtocolName, dataset.BodyPartExamined = "chest", "chest", "CHEST"
        dataset.KVP, dataset.XRayTubeCurrent, dataset.ExposureTime, dataset.ConvolutionKernel = 120, 200, 500, "B30"
        dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 2, z + 1, 1
        dataset.SliceThickness, dataset.PixelSpacing = 1.0, [0.7, 0.7]
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-180, -180, z], [1, 0, 0, 0, 1, 0]
        dataset.SliceLocation, dataset.Rows, dataset.Columns = z, size, size
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        dataset.WindowCenter, dataset.WindowWidth = 40, 400
        pixels = np.clip(np.roll(body, z, axis=1) + noise[z % 8] + 24, 0, 4095).astype("<u2")
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        if syntax:
            dataset.compress(syntax, pixels, generate_instance_uid=False)
        dataset.save_as(folder / f"{draw.integers(1 << 30):08x}{z:05d}.dcm", enforce_file_format=True)


def loader(tool: str):
    """A function from a folder to an array [z, y, x]; its imports are done here."""
    if tool == "firstread":
        from firstread.io.open import read

        return lambda folder: read(folder).case["image"].data[0, 0, 0].numpy()
    if tool == "pydicom loop":
        import pydicom

        def loop(folder: Path) -> np.ndarray:
            slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()),
                            key=lambda dataset: dataset.ImagePositionPatient[2])
            return np.stack([(s.pixel_array.astype(np.int16) * np.int16(s.RescaleSlope) + np.int16(s.RescaleIntercept))
                             for s in slices])

        return loop
    if tool == "SimpleITK":
        import SimpleITK

        def series(folder: Path) -> np.ndarray:
            reader = SimpleITK.ImageSeriesReader()
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
            return SimpleITK.GetArrayFromImage(reader.Execute())

        return series
    if tool == "MONAI":
        from monai.data import PydicomReader
        from monai.transforms import LoadImage

        load = LoadImage(reader=PydicomReader(), image_only=True)
        return lambda folder: np.asarray(load(folder)).transpose(2, 1, 0)
    import dicom2nifti

    dicom2nifti.settings.disable_validate_slice_increment()

    def convert(folder: Path) -> np.ndarray:
        image = dicom2nifti.dicom_series_to_nifti(folder, None, reorient_nifti=False)["NII"]
        return np.asarray(image.dataobj).transpose(2, 1, 0)

    return convert


def measure(tool: str, folder: Path, repeat: int) -> dict:
    """Load ``repeat`` times after a first one; array statistics tell whether all tools got the same."""
    started = time.perf_counter()
    load = loader(tool)
    imports = time.perf_counter() - started
    wall, cpu = [], []
    for round_ in range(repeat + 1):
        begin, spent = time.perf_counter(), cpu_seconds()
        array = load(folder)
        if round_ > 0 or repeat == 1:
            wall.append(time.perf_counter() - begin)
            cpu.append(cpu_seconds() - spent)
        if repeat == 1:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sums = [float(np.abs(array[:, row].astype(np.float64)).sum()) for row in (0, array.shape[1] // 3, -1)]
    return {"import_s": imports, "wall_s": min(wall), "cpu_s": min(cpu), "peak_mb": peak,
            "dtype": str(array.dtype), "shape": array.shape, "sums": sorted(sums)}


def cpu_seconds() -> float:
    """Of this process and of the ended ones that it started."""
    return sum(os.times()[:4])


def run_apart(tool: str, folder: Path, repeat: int, threads: int) -> dict:
    """``measure`` in a process of its own."""
    setting = {**os.environ, "OMP_NUM_THREADS": str(threads), "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)}
    command = [sys.executable, __file__, "--one", tool, str(folder), "--repeat", str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True, env=setting, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(rows: list, arguments: argparse.Namespace) -> str:
    """Ratios are seconds over Firstread's of the same job."""
    lines = ["# DICOM series to an array", "",
             f"`python bench/dicom_load.py --jobs {' '.join(arguments.jobs)} --repeat {arguments.repeat}` on "
             f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; load average "
             f"{os.getloadavg()[0]:.1f} (where it is above the number of cores, read the ratio of CPU "
             "seconds). Files in the cache, each tool in its own process. Ratios are over Firstread's: above one "
             "is slower than Firstread.", "",
             "Versions: " + ", ".join(f"{name} {version(name)}" for name in (
                 "firstread", "pydicom", "SimpleITK", "monai", "dicom2nifti", "pylibjpeg-openjpeg", "pylibjpeg-rle",
                 "numpy", "torch")) + ".", "",
             "| job | tool | CPU ratio | wall ratio | CPU s | wall s | peak MB | array | same values | import s |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for job, tool, found in rows:
        if "error" in found:
            lines.append(f"| {JOBS[job][0]} | {tool} | failed: {found['error']} | | | | | | | |")
            continue
        ours, truth = (next((r for j, t, r in rows if j == job and t == name and "wall_s" in r), None)
                       for name in ("firstread", "pydicom loop"))
        ratio = " | ".join(f"{found[unit] / ours[unit]:.1f}" if ours else "-" for unit in ("cpu_s", "wall_s"))
        same = "-" if truth is None else "yes" if np.allclose(found["sums"], truth["sums"], rtol=1e-5) else "no"
        lines.append(f"| {JOBS[job][0]} | {tool} | {ratio} | {found['cpu_s']:.2f} | {found['wall_s']:.2f} | "
                     f"{found['peak_mb']:.0f} | {found['dtype']} | {same} | {found['import_s']:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
