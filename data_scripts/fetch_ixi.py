"""Fetch IXI: brain MR of nearly 600 healthy people from three London hospitals, T1 and T2 weighted.

    python data_scripts/fetch_ixi.py --output data/ixi
    python data_scripts/fetch_ixi.py T1 --output data/ixi

The site publishes no checksums. The MD5 sums here are those that TorchIO (torchio/datasets/ixi.py) and, for
T1, MONAI's tutorials have been checking for years.
"""

from __future__ import annotations

import sys

from download import DataSet, RemoteFile, run

IXI = DataSet(
    title="IXI (Information eXtraction from Images)",
    license="CC BY-SA 3.0",
    cite="IXI dataset, https://brain-development.org/ixi-dataset/",
    base_url="http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/",
    files=(
        RemoteFile("T1", "IXI-T1.tar", "34901a0593b41dd19c1a1f746eac2d58"),
        RemoteFile("T2", "IXI-T2.tar", "e3140d78730ecdd32ba92da48c0a9aaa"),
    ),
    default=("T1", "T2"),
)

if __name__ == "__main__":
    sys.exit(run(IXI))
