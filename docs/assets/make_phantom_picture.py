"""Draws docs/assets/phantom.png: three subjects of the phantom, a little noise added, contours of the labels.

    python docs/assets/make_phantom_picture.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image

from firstread.acquire.heart import heart_subject

SUBJECTS = ((4, "train", "normal"), (31, "train", "hypertrophic"), (33, "test", "dilated"))
COLUMNS = (("base", 0.12), ("middle", 0.45), ("apex", 0.75))


def main() -> None:
    figure, axes = plt.subplots(len(SUBJECTS), 6, figsize=(10.2, 5.2), facecolor="black")
    noise = torch.Generator().manual_seed(0)
    for number, (seed, family, pathology) in enumerate(SUBJECTS):
        row = axes[number]
        subject = heart_subject(seed=seed, family=family, pathology=pathology, frames=10, matrix=(128, 128),
                                spacing_mm=1.6)
        image, labels = subject.image.data[0, :, 0].abs(), subject.labels.data[0, :, 0]
        systole = int(subject.truth.lv_volume_ml.argmin())
        for k, (name, level) in enumerate(COLUMNS):
            place = round(level * (image.shape[1] - 1))
            for offset, frame in enumerate((0, systole)):
                axis, shown = row[2 * k + offset], image[frame, place]
                noisy = (shown + 0.03 * torch.randn(shown.shape, generator=noise)).abs()
                axis.imshow(noisy, cmap="gray", vmin=0, vmax=torch.quantile(shown, 0.99).item())
                if offset == 1:
                    axis.contour(labels[frame, place], levels=(0.5, 1.5, 2.5), linewidths=0.9,
                                 colors=("tab:red", "gold", "tab:cyan"))
                axis.set_axis_off()
                if number == 0:
                    axis.set_title(f"{name}, {'end-systole' if offset else 'end-diastole'}", color="white", fontsize=7)
        row[0].text(3, 124, f"{pathology}\nLVEF {subject.truth['LVEF']:.0f} %", color="white", fontsize=7)
    figure.subplots_adjust(0.002, 0.002, 0.998, 0.96, wspace=0.01, hspace=0.01)
    path = Path(__file__).with_name("phantom.png")
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
