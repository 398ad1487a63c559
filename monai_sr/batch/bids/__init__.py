"""BIDS in, a BIDS derivative dataset out."""

from .derivative import derivative_sidecar, fused_sidecar, write_dataset_description
from .raw import BidsImage, Found, LeftOut, find_bids_images, is_bids
