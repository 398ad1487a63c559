"""BIDS in, a BIDS derivative dataset out."""

from .derivative import derivative_sidecar, fused_sidecar, write_dataset_description
from .raw import BidsImage, Found, LeftOut, find_bids_images, is_bids

__all__ = [
    "BidsImage",
    "Found",
    "LeftOut",
    "derivative_sidecar",
    "find_bids_images",
    "fused_sidecar",
    "is_bids",
    "write_dataset_description",
]
