"""The page of a trained segmentation: what it was trained on, by which plan, and how well it did on held-out patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstread.report.templates import environment

WIDTH, HEIGHT = 560, 26  # of the plot of one class


def write_page(path: Path, plan: Mapping[str, Any], fingerprint: Mapping[str, Any], card: Mapping[str, Any],
               rows: Sequence[Mapping[str, Any]]) -> None:
    """One self-contained page without script. plan, fingerprint, card: as in their files; rows: the cases of cv.json.
    """
    pages = environment()
    names = list(card["validation"] or {})
    lowest = _lowest(rows)
    text = pages.get_template("segment_training.html").render(
        plan=plan, fingerprint=fingerprint, card=card, lowest=lowest,
        worst=sorted((r for r in rows if _mean(r) is not None), key=_mean)[:5],
        plots={name: _plot(rows, name, card["validation"][name], lowest) for name in names}, mean=_mean,
        width=WIDTH, height=HEIGHT, settings=_settings(plan))
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _plot(rows: Sequence[Mapping[str, Any]], name: str, found: Mapping[str, Any], lowest: float) -> dict[str, Any]:
    """Places along x of every case, of the mean and of its interval."""
    def place(value: float) -> float:
        return round(8 + (WIDTH - 16) * (value - lowest) / (1 - lowest), 1)

    values = [(row["case"], _mean(row) if name == "mean of classes" else row["dice"].get(name)) for row in rows]
    dots = [{"x": place(v), "title": f"{case}: {v:.3f}"} for case, v in values if v is not None]
    interval = None if found["lower"] is None else (place(found["lower"]), place(found["upper"]))
    return {"dots": dots, "mean": None if found["mean"] is None else place(found["mean"]), "interval": interval}


def _lowest(rows: Sequence[Mapping[str, Any]]) -> float:
    """Where the axis begins: the tenth below the lowest case."""
    values = [v for row in rows for v in row["dice"].values() if v is not None]
    return min(0.9, int(10 * min(values, default=0.0)) / 10)


def _mean(row: Mapping[str, Any]) -> float | None:
    known = [v for v in row["dice"].values() if v is not None]
    return sum(known) / len(known) if known else None


def _settings(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plan's values as lines."""
    made = []
    for key, value in plan.items():
        if isinstance(value, Mapping):
            made.append((key, ", ".join(f"{k} {v}" for k, v in value.items() if v not in ("", {}))))
        elif key not in ("schema", "classes"):
            made.append((key, str(value)))
    return made
