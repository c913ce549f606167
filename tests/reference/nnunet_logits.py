"""Makes nnunet_logits.npz: what nnU-Net's own predictor says of the tiny models of tests/zoo/tiny_nnunet.py.

    python tests/reference/nnunet_logits.py     (in an environment with nnunetv2 2.8.1 beside Firstread)

Stored are every fifth voxel's logits on the image's voxels, mirroring on, two folds, and the labels. nnU-Net adds
windows in half precision, where small Gaussian weights lose their digits; here it is made to add in single precision,
and how far its own sums lie from that is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "zoo"))
STRIDE = 5


class SinglePrecision(ModuleType):
    """Torch with single precision under the name of half precision."""

    half = torch.float32

    def __getattr__(self, name: str):
        return getattr(torch, name)


def predicted(folder: Path, image: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net's logits ``[head, ...]`` on the voxels of the cropped image, its axes in nnU-Net's order; its labels."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0, 1))
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    data, _, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
        image, None, {"spacing": list(spacing)}, plans, configuration, predictor.dataset_json)
    made = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    turned = [spacing[axis] for axis in plans.transpose_forward]
    current = [turned[0], *configuration.spacing][-3:]
    logits = configuration.resampling_fn_probabilities(
        made, properties["shape_after_cropping_and_before_resampling"], current, turned)
    labels = convert_predicted_logits_to_segmentation_with_correct_shape(
        made, plans, configuration, predictor.label_manager, properties)
    return np.asarray(logits), labels


def main() -> None:
    import nnunetv2.inference.predict_from_raw_data as prediction
    from tiny_nnunet import CASES, image_of, write_model

    torch.set_num_threads(1)
    stored = {}
    for case in CASES:
        with TemporaryDirectory() as home:
            folder, (image, spacing) = write_model(Path(home), case), image_of(case)
            half, _ = predicted(folder, image, spacing)
            prediction.torch = SinglePrecision("torch")
            single, labels = predicted(folder, image, spacing)
            prediction.torch = torch
        stored[case] = single.astype(np.float32).reshape(len(single), -1)[:, ::STRIDE]
        stored[f"{case}_labels"] = labels.astype(np.uint8)
        print(f"{case}: {single.shape}, largest logit {abs(single).max():.2f}, its own half-precision sums lie up to "
              f"{abs(half - single).max():.1e} away")
    np.savez_compressed(HERE / "nnunet_logits.npz", **stored)


if __name__ == "__main__":
    main()
