"""Fetch tasks of the Medical Segmentation Decathlon from the AWS bucket that MONAI itself uses.

    python data_scripts/fetch_msd.py --output data/msd                  # Task06_Lung, thin-slice chest CT
    python data_scripts/fetch_msd.py Task03_Liver --output data/msd

Names, addresses and MD5 sums are MONAI's (monai.apps.DecathlonDataset), so they cannot drift apart.
"""

from __future__ import annotations

import sys

from download import DataSet, RemoteFile, run
from monai.apps import DecathlonDataset

_URLS = {task: url.rpartition("/") for task, url in DecathlonDataset.resource.items()}

MSD = DataSet(
    title="Medical Segmentation Decathlon",
    license="CC BY-SA 4.0",
    cite="Antonelli et al. 2022, https://doi.org/10.1038/s41467-022-30695-9; Simpson et al. 2019, arXiv:1902.09063.",
    base_url=_URLS["Task06_Lung"][0] + "/",
    files=tuple(RemoteFile(task, name, DecathlonDataset.md5[task]) for task, (_, _, name) in _URLS.items()),
    default=("Task06_Lung",),
)

if __name__ == "__main__":
    sys.exit(run(MSD))
