"""DICOM: series out of folders, classic and enhanced images in, segmentations out."""
