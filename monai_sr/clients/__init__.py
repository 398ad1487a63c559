"""monai-sr in other programs."""
