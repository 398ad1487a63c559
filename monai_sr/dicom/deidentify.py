"""De-identification of what is written, by the Basic Application Level Confidentiality Profile of DICOM.

``confidentiality_2026c.tsv`` is table E.1-1 of PS3.15, edition 2026c: each attribute and the action of the Basic
Profile (collected from dicom-anonymizer 2.1.0). No option of the profile is applied. Positions, orientations and
spacings are not in the table and stay.
"""

from __future__ import annotations

import csv
import hmac
import os
import secrets
import stat
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UsageError, warn, write_error
from .attributes import get
from .kept import code_of
from .late import pydicom
from .series import Series

EDITION = "2026c"

SECRET_FILE = "MONAI_SR_SECRET"
"""Environment variable that names the file of the secret."""

FEWEST_CHARACTERS = 16
"""Of a secret; shorter ones can be guessed."""

OWN_TEXTS = ("SeriesDescription", "DerivationDescription")
"""Attributes of the table that monai-sr writes in its own words, at the top of what it writes."""

REQUIRED = (
    *("ContentDate", "ContentTime", "DeviceSerialNumber", "AcquisitionContextSequence", "OperatorsName"),
    *("ReviewerName",),
)
"""Attributes that multi-frame objects and structure sets must have; others are removed where the table allows it."""

DATES = ("DA", "DT", "TM", "PN", "AE")
"""Value representations of dates, persons and machines: removed even where the table does not name the attribute."""

SCHEMES = ("CodingSchemeUID", "ContextUID", "MappingResourceUID", "ContextGroupExtensionCreatorUID")
"""UIDs of code systems, which name no instance."""

DUMMIES: dict[str, str | bytes] = {
    "DA": "19000101",
    "TM": "000000",
    "DT": "19000101000000",
    "AS": "000Y",
    "UR": "http://removed.invalid",
}
DUMMIES |= dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED")
DUMMIES |= dict.fromkeys(("OB", "OW", "UN"), b"\0\0")
"""Values that replace others; numbers become 0."""

METHOD = ("113100", "DCM", "Basic Application Confidentiality Profile")  # context group 7050 of PS3.16


class Pseudonyms:
    """Pseudonyms of patients and UIDs that a secret gives: always the same for the same secret.

    A pseudonym carries a checksum of the secret, so that it is known as one and is not replaced again.

    Args:
        secret: whoever has it can test which pseudonym belongs to whom.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls) -> Pseudonyms:
        """Those of the secret in the file that ``MONAI_SR_SECRET`` names, else ``~/.config/monai-sr/secret``.

        A new secret is made if there is no file (W-DEID-SECRET).

        Raises:
            UsageError: the secret cannot be read, is too short, or everyone may read it (E-DEID-SECRET).
            OutputError: it cannot be written.
        """
        path = Path(os.environ.get(SECRET_FILE) or Path.home() / ".config" / "monai-sr" / "secret")
        if not path.exists():
            _make_secret(path)
        try:
            secret = path.read_bytes().strip()
            is_open = os.name == "posix" and bool(path.stat().st_mode & stat.S_IROTH)
        except OSError as error:
            problem = f"the secret cannot be read ({error.strerror})"
            raise UsageError("E-DEID-SECRET", problem, path=path) from error
        if is_open:
            raise UsageError("E-DEID-SECRET", "everyone may read the secret", fix="chmod o-r", path=path)
        if len(secret) < FEWEST_CHARACTERS:
            problem = f"the secret has {len(secret)} characters, {FEWEST_CHARACTERS} are needed"
            raise UsageError("E-DEID-SECRET", problem, path=path)
        return cls(secret)

    @property
    def id(self) -> str:
        """Names the secret without giving it away."""
        return self._digest("secret", "").hex()[:8]

    def uid(self, uid: str) -> str:
        """The pseudonym of a UID; UIDs of the standard itself and pseudonyms stay."""
        if not uid or uid.startswith("1.2.840.10008.") or self.is_pseudonym(uid):
            return uid
        code = self._digest("uid", uid)[:11]
        return f"{pydicom.uid.PYDICOM_ROOT_UID}{int.from_bytes(code + self._check(code))}"

    def is_pseudonym(self, uid: str) -> bool:
        """Whether a UID is a pseudonym by this secret."""
        number = uid.removeprefix(pydicom.uid.PYDICOM_ROOT_UID)
        if number == uid or not number.isdecimal() or int(number) >= 2**120:
            return False
        code = int(number).to_bytes(15)
        return hmac.compare_digest(code[11:], self._check(code[:11]))

    def patient(self, dataset: pydicom.Dataset) -> str:
        """The pseudonym of a patient, by PatientID; without one by name and date of birth, else by the study."""
        if self.is_pseudonym(str(get(dataset, "StudyInstanceUID"))):
            return str(get(dataset, "PatientID"))
        for names in (("PatientID", "IssuerOfPatientID"), ("PatientName", "PatientBirthDate"), ("StudyInstanceUID",)):
            identity = [str(get(dataset, name) or "").strip() for name in names]
            if identity[0]:
                break
        return f"SR-{self._digest('patient', '|'.join(identity)).hex()[:12].upper()}"

    def name(self, name: str) -> str:
        """The name of a result, such as ``series-0123456789ab``, by another one that is made from a header."""
        return f"series-{self._digest('name', name).hex()[:12]}"

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._secret, f"{kind}|{text}".encode(), "sha256")

    def _check(self, code: bytes) -> bytes:
        return self._digest("check", code.hex())[:4]


def _make_secret(path: Path) -> None:
    """Write a new secret that only its owner may read, whole or not at all, unless another process was first."""
    made = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(made, path)
    except FileExistsError:
        return
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        made.unlink(missing_ok=True)
    text = "a new secret was made; keep it, so that later runs give the same pseudonyms, and keep it from others"
    warn("W-DEID-SECRET", text, path=path)


@cache
def actions() -> dict[str, str]:
    """The action of the Basic Profile on each attribute of the table, by its tag as eight hexadecimal digits.

    Groups 50xx (curves) and 60xx (overlays) are removed as a whole, as :func:`deidentify` does.
    """
    with open(Path(__file__).with_name(f"confidentiality_{EDITION}.tsv"), encoding="utf-8", newline="") as file:
        return {row["tag"]: row["action"] for row in csv.DictReader(file, delimiter="\t")}


def deidentify(dataset: pydicom.Dataset, pseudonyms: Pseudonyms) -> pydicom.Dataset:
    """Replace or remove what the Basic Profile names, at every depth, private attributes and unknown ones; in place.

    Kept are the texts that monai-sr wrote itself: :data:`OWN_TEXTS` and its item of ContributingEquipmentSequence.

    Args:
        dataset: as monai-sr is to write it.
        pseudonyms: of its patient and UIDs.

    Returns:
        The dataset.
    """
    patient = pseudonyms.patient(dataset)
    texts = {name: dataset[name] for name in OWN_TEXTS if name in dataset}
    equipment = list(dataset.get("ContributingEquipmentSequence") or ())
    must = "NumberOfFrames" in dataset or dataset.get("Modality") == "RTSTRUCT"
    _clean(dataset, pseudonyms, must=must)
    for element in texts.values():
        dataset.add(element)
    if equipment:
        cleaned = dataset.ContributingEquipmentSequence
        ours = [item.get("Manufacturer") == "monai-sr" for item in equipment]
        items = [old if own else new for old, new, own in zip(equipment, cleaned, ours, strict=True)]
        dataset.add_new("ContributingEquipmentSequence", "SQ", items)
    dataset.add_new("PatientID", "LO", patient)
    dataset.add_new("PatientName", "PN", patient)
    dataset.add_new("PatientIdentityRemoved", "CS", "YES")
    method = [f"monai-sr {version('monai-sr')}", f"Basic Profile of PS3.15 {EDITION}, no options"]
    dataset.add_new("DeidentificationMethod", "LO", method)
    dataset.add_new("DeidentificationMethodCodeSequence", "SQ", code_of(*METHOD))
    dataset.add_new("LongitudinalTemporalInformationModified", "CS", "REMOVED")
    meta = getattr(dataset, "file_meta", None)
    if meta is not None:
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _clean(dataset: pydicom.Dataset, pseudonyms: Pseudonyms, *, must: bool) -> None:
    """Apply the table to a dataset. Elements are replaced and not changed: other datasets may hold them, too.

    Args:
        dataset: changed in place.
        pseudonyms: of UIDs.
        must: whether :data:`REQUIRED` holds.
    """
    for tag in list(dataset.keys()):
        keyword, raw = pydicom.datadict.keyword_for_tag(tag), dataset.get_item(tag)
        if tag.is_private or not keyword or tag.group >> 8 in (0x50, 0x60):
            del dataset[tag]
            continue
        vr = str(getattr(raw, "VR", None) or pydicom.datadict.dictionary_VR(tag)).split()[0]
        action = actions().get(f"{int(tag):08X}", "X" if vr in DATES else "")
        if "*" in action:
            action = ""  # a sequence of references, whose UIDs are replaced
        first, *others = action.split("/")
        action = others[-1] if others and must and keyword in REQUIRED else first
        if action == "X":
            del dataset[tag]
        elif action == "Z":
            number = dataset.get("ROINumber")
            dataset.add_new(tag, vr, [] if vr == "SQ" else f"ROI {number}" if keyword == "ROIName" else None)
        elif action == "D" and vr != "UI":
            dataset.add_new(tag, vr, [] if vr == "SQ" else DUMMIES.get(vr, 0))
        elif vr == "SQ":
            dataset.add_new(tag, vr, [_cleaned(item, pseudonyms, must=must) for item in dataset[tag].value])
        elif vr == "UI" and keyword not in SCHEMES:
            dataset.add_new(tag, vr, list(_replaced(dataset, tag, pseudonyms)) or None)


def _cleaned(item: pydicom.Dataset, pseudonyms: Pseudonyms, *, must: bool) -> pydicom.Dataset:
    """A copy of an item of a sequence, cleaned."""
    copy = pydicom.Dataset()
    copy.update(item)
    _clean(copy, pseudonyms, must=must)
    return copy


def _replaced(dataset: pydicom.Dataset, tag: pydicom.tag.BaseTag, pseudonyms: Pseudonyms) -> Iterator[pydicom.uid.UID]:
    """The UIDs of an attribute as pseudonyms."""
    value: Any = dataset[tag].value or ()
    for uid in [value] if isinstance(value, str) else value:
        yield pydicom.uid.UID(pseudonyms.uid(str(uid)))


def warn_of_pixels(series: Series) -> None:
    """Warn that the pixels are not looked at, unless the header says that they show no text and no face."""
    said = {
        name: sorted({v if (v := get(header, name)) in ("YES", "NO") else "not given" for header in series.headers})
        for name in ("BurnedInAnnotation", "RecognizableVisualFeatures")
    }
    if any(values != ["NO"] for values in said.values()):
        warn(
            "W-DEID-PIXELS",
            "pixels are not de-identified: text in them, or the face in a head, stays "
            "(BurnedInAnnotation {burned}, RecognizableVisualFeatures {features})",
            facts=dict(zip(("burned", "features"), map(", ".join, said.values()), strict=True)),
        )
