"""What every code in a message means and what to do about it; ``monai-sr errors`` prints it.

E- codes end the work on a volume, or say why files were left out. W- codes stand beside a result.
"""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "E-BIDS-DATASET": (
        "The folder is no raw BIDS dataset.",
        "Give the folder that holds dataset_description.json, of a raw dataset and not of a derivative one.",
    ),
    "E-BIDS-FETCH": ("The content of a file of a DataLad dataset is not here.", "Run datalad get."),
    "E-BIDS-IGNORED": ("The dataset's .bidsignore names the file.", "Nothing; it is left out."),
    "E-BIDS-JSON": ("A JSON file of the dataset cannot be read.", "Repair or fetch the file that the message names."),
    "E-BIDS-LABEL": ("The dataset has no participant or session of that label.", "Choose one that the message lists."),
    "E-BIDS-MAP": ("A map or a mask, not an image that slices average.", "Nothing; it is left out."),
    "E-BIDS-NAME": (
        "The name of an image is none that BIDS knows.",
        "Rename it as the message says; until then it is left out.",
    ),
    "E-BIDS-PHASE": ("A phase image: phase wraps, so slices do not average it.", "Nothing; it is left out."),
    "E-BIDS-TWIN": (
        "The same image is there compressed and not.",
        "Nothing, the compressed one is taken; or remove one of them.",
    ),
    "E-BUG": (
        "An error that nobody expected: a fault of monai-sr, not of the image.",
        "Run again with --debug and report what it prints.",
    ),
    "E-CON-GRID": (
        "Two volumes cannot be compared: their axes are not parallel, or they do not overlap.",
        "Give the acquired volume and its super-resolved one, on axes that are parallel.",
    ),
    "E-CON-LIMIT": (
        "A result contradicts the acquired slices by more than the limit (in run: under --strict).",
        "Check slice thickness, profile and where the result comes from; look at the map.",
    ),
    "E-CONFIG": (
        "A file of options cannot be used.",
        "Write JSON or YAML that names options as `monai-sr run --help` does, or give the record beside a result.",
    ),
    "E-CT-HU": (
        "The values of a CT are no Hounsfield units, as after scaling to 0..1 or without rescale.",
        "Restore RescaleSlope and RescaleIntercept, or convert from the original DICOM again.",
    ),
    "E-DCM-AMBIG": (
        "Several slices lie at each position and nothing in the headers tells the repeats apart.",
        "Separate phases, echoes or repetitions into series of their own.",
    ),
    "E-DCM-CODEC": (
        "The pixels are compressed in a way that no installed decoder reads.",
        "Install the package that the message names, or decompress the series (gdcmconv --raw).",
    ),
    "E-DCM-DUP": ("Two different slices lie at the same position.", "Remove the one that does not belong."),
    "E-DCM-GAP": (
        "Slices are missing: one step is a multiple of the others.",
        "Restore the slices, or have them filled from their neighbors by --fill-gaps; they are marked.",
    ),
    "E-DCM-HEADER": ("The header of a DICOM file ends early or is damaged.", "Copy or export the file again."),
    "E-DCM-KIND": (
        "DICOM, but no image: DICOMDIR, report, presentation state, structures.",
        "Nothing; it is left out.",
    ),
    "E-DCM-LOCALIZER": ("A localizer (scout, topogram), which makes no volume.", "Nothing; it is left out."),
    "E-DCM-MODALITY": ("An image of another modality than CT and MR.", "Nothing; it is left out."),
    "E-DCM-MOSAIC": (
        "A Siemens mosaic: many slices tiled in one picture.",
        "Convert it by dcm2niix and give the NIfTI file.",
    ),
    "E-DCM-NOGEOM": (
        "ImagePositionPatient or ImageOrientationPatient is missing or useless, so slices have no place.",
        "Export the series again, with its geometry.",
    ),
    "E-DCM-NONE": (
        "No CT or MR series was found; the message counts what else is there.",
        "Give the folder or zip of a CT or MR series.",
    ),
    "E-DCM-OWN": ("A series that monai-sr made; it is never taken as an input.", "Nothing; it is left out."),
    "E-DCM-PIXELS": (
        "The pixels cannot be decoded, or contradict the header.",
        "Copy or export the file again; decompress it by another tool if that is no help.",
    ),
    "E-DCM-SC": ("A secondary capture or color picture, not an acquired slice.", "Nothing; it is left out."),
    "E-DCM-SERIES": (
        "Which series is meant is unclear: there are several, or none of that number or UID.",
        "Choose one by --series, or give a folder as the output to have them all.",
    ),
    "E-DCM-SPACING": (
        "PixelSpacing is missing; ImagerPixelSpacing, at the detector, does not replace it.",
        "Export the series again, with its spacing.",
    ),
    "E-DCM-SPLIT": (
        "Slices that each have a series of their own.",
        "Join those that fit together by --merge-by-geometry.",
    ),
    "E-DCM-TRUNC": ("A DICOM file has fewer pixels than its header says.", "Copy or export the file again."),
    "E-DEV": ("The device cannot be used here.", "Give --device auto or cpu; check the driver of the GPU."),
    "E-ENGINE": (
        "Engine, precision and device do not fit together, or to the network.",
        "Leave --engine and --precision out, or give what the message names.",
    ),
    "E-EXTRA": ("A package is missing that only this option needs.", "Install what the message names."),
    "E-HDR-AFFINE": (
        "The affine that tells where voxels lie holds NaN or infinite values, or the form asked for is absent.",
        "Repair sform or qform, for example by converting the original DICOM again.",
    ),
    "E-HDR-AXIS": (
        "The spacing does not tell along which axis the slices are stacked.",
        "Name it by --axis 0, 1 or 2.",
    ),
    "E-HDR-DIM": (
        "The header claims no voxels, a negative number or more than any memory holds.",
        "Restore the file; repair the header's dim field.",
    ),
    "E-HDR-SHEAR": (
        "The axes of the voxels are not at right angles.",
        "Resample the volume to an orthogonal grid first. A CT with tilted gantry is best given as DICOM.",
    ),
    "E-HDR-SPACING": ("A voxel spacing is 0, negative or NaN.", "Restore the spacing in the header."),
    "E-HDR-UNITS": (
        "The voxel spacing is none of a CT or MR volume: below 0.05 or above 50 mm.",
        "Restore spacing and units (xyzt_units) in the header.",
    ),
    "E-IMG-2D": ("A single slice or picture, no volume.", "Give the whole stack of slices."),
    "E-IMG-4D": (
        "Several volumes in one file, such as time points or echoes.",
        "Choose one by --volume, or take each by --volume all.",
    ),
    "E-IMG-CONST": ("Every voxel has the same value.", "Check how the file was made."),
    "E-IMG-DTYPE": (
        "Voxels are colors, vectors, complex numbers or records.",
        "Convert the image to one real number per voxel.",
    ),
    "E-IMG-FEW": ("Fewer than three slices.", "Give the whole series."),
    "E-IMG-NAN": (
        "Voxels are NaN or infinite: all of them, or some under --nan refuse.",
        "Mend the image, or leave --nan out to have them filled.",
    ),
    "E-IMG-OWN": ("The image is a result of monai-sr.", "Nothing; it is left out."),
    "E-IO-CHANGED": ("A file changed while it was read.", "Wait until it is copied as a whole and run again."),
    "E-IO-CRC": (
        "Compressed data do not match their checksum: the file is damaged, though it may look whole.",
        "Copy or download the file again.",
    ),
    "E-IO-MISSING": ("There is no such file or folder, or no image in it.", "Check the path."),
    "E-IO-PERM": ("The file may not be read.", "Change its permissions."),
    "E-IO-READ": (
        "The file looks like an image and cannot be read as one.",
        "Check or convert the file.",
    ),
    "E-IO-TRUNC": ("The file ends early.", "Copy or download the file again."),
    "E-IO-TYPE": (
        "The content is no image, whatever the name says: empty, text, a web page, a device.",
        "Give a NIfTI, NRRD or MetaImage file, or a folder or zip of DICOM.",
    ),
    "E-LIST": (
        "A list of files cannot be used.",
        "Write it as UTF-8 text, a path a line, or as CSV with a column named input.",
    ),
    "E-MASK-GRID": (
        "A mask does not lie where its image lies, or has another number of voxels.",
        "Give a mask on the grid of the acquired image; resample it by nearest neighbor if need be.",
    ),
    "E-MASK-VALUES": ("A mask holds other values than whole numbers.", "Give labels, not a map of probabilities."),
    "E-MEM": (
        "Memory does not suffice, even with the smallest tiles.",
        "Run on a machine with more memory, with fewer --jobs, or ask for a coarser --spacing.",
    ),
    "E-MOD": (
        "Not what the networks are made for: a mask or segmentation, or another modality than the header says.",
        "Give the image itself; if it is one all the same, name what it is by --modality.",
    ),
    "E-OUT-CLASH": ("Two results would have one name.", "Rename an input, or give every output a name in a CSV list."),
    "E-OUT-EXISTS": ("The result is there already and is not overwritten.", "Remove it or write elsewhere."),
    "E-OUT-FOLDER": (
        "The folder of the output does not exist, or a file and a folder have each other's name.",
        "Create the folder, or choose another name.",
    ),
    "E-OUT-FORMAT": (
        "No such format is written, or it cannot hold the result.",
        "Name the output .nii.gz, .nii, .nrrd or .mha, or a folder for DICOM.",
    ),
    "E-OUT-PERM": ("The output cannot be written.", "Choose a folder you may write to."),
    "E-OUT-SAME": ("The output is the input, or lies inside the input folder.", "Write elsewhere."),
    "E-OUT-SPACE": ("The disk is full.", "Free some space and run again."),
    "E-PACS-ANSWER": (
        "What answers at the URL does not speak DICOMweb.",
        "Give the root of the DICOMweb service, such as https://host/dicom-web.",
    ),
    "E-PACS-AUTH": (
        "The archive does not accept the credentials, or wants some (401).",
        "Give them by --auth-file, the environment or ~/.netrc.",
    ),
    "E-PACS-CONNECT": (
        "The archive cannot be reached, does not answer in time, or the connection was lost.",
        "Check the URL, the network and whether the archive runs; raise --timeout if it is slow.",
    ),
    "E-PACS-DERIVED": ("A series of derived images, not of acquired ones.", "Nothing; it is left out."),
    "E-PACS-MISSING": (
        "The archive has nothing at that path (404): no DICOMweb service, or a series that was removed.",
        "Give the root of the DICOMweb service.",
    ),
    "E-PACS-REDIRECT": (
        "The archive redirects elsewhere, which is not followed: images might go to another host.",
        "Give the URL at which the archive answers itself.",
    ),
    "E-PACS-RIGHTS": (
        "The archive forbids the request (403).",
        "Ask for the rights to search, to retrieve and to store.",
    ),
    "E-PACS-SERVER": ("The archive answers with an error of its own.", "Look into the archive's log."),
    "E-PACS-SHORT": (
        "The archive sent fewer instances of a series than it says it has.",
        "Nothing if they still arrive, it is tried again; else check the archive.",
    ),
    "E-PACS-STORE": (
        "The archive did not take every instance of a result; after three times it is given up.",
        "Look into the archive's log for the FailureReason that the message names.",
    ),
    "E-PACS-THIN": (
        "A series whose slices are not clearly farther apart than its pixels.",
        "Nothing, it is left out; or lower --thick-ratio.",
    ),
    "E-PACS-TLS": (
        "No trusted connection can be made: the certificate is not signed by an authority that is trusted, "
        "belongs to another name, or has expired.",
        "Give the certificate of your authority by --ca-file, or have the archive's mended; nothing turns this off.",
    ),
    "E-PEER": ("A program that is measured as a peer failed on a volume.", "Run its command by itself on that volume."),
    "E-RANGE-FIELD": (
        "The field of view is larger than any that the bundle was trained on (under --strict).",
        "Crop the volume to what matters, or mind the result.",
    ),
    "E-RANGE-INPLANE": (
        "The in-plane spacing is beyond those that the bundle was trained on (under --strict).",
        "Mind that the result may be no better than interpolation.",
    ),
    "E-RANGE-MODALITY": (
        "The bundle was not trained on images of this modality (under --strict).",
        "Take a bundle for it, or --bundle none.",
    ),
    "E-RANGE-SLICES": (
        "The slice spacing is beyond those that the bundle was trained on (under --strict).",
        "Mind that the result may be no better than interpolation.",
    ),
    "E-RANGE-THICKNESS": (
        "Slices are thinner or thicker, for their spacing, than those that the bundle was trained on (under --strict).",
        "Check the slice thickness.",
    ),
    "E-RANGE-VALUES": (
        "Values are beyond those that the bundle was trained on, as of metal or of wrong units (under --strict).",
        "Check the units; mind the result around those values.",
    ),
    "E-REPORT": ("Pictures need matplotlib.", 'Install it: pip install "monai-sr[report]".'),
    "E-SCHED": (
        "The Dask scheduler does not answer, or its workers cannot do this.",
        "Check its address and the network; give folders, not zips.",
    ),
    "E-SEC-BOMB": (
        "An archive would become far larger than it is, or holds too many files.",
        "Unpack it by hand if it is to be trusted.",
    ),
    "E-SEC-PATH": (
        "An archive holds a link, or an entry that leads out of its folder.",
        "Unpack it by hand and look into it.",
    ),
    "E-SR-NOGAIN": (
        "There is nothing to super-resolve: no finer spacing is wanted (under --strict).",
        "Leave the image as it is, or ask for a finer --spacing.",
    ),
    "E-SR-RANGE": (
        "The factor is beyond those that the network was trained for (under --strict).",
        "Ask for a factor in the range, or take --bundle none.",
    ),
    "E-USE": ("Options are wrong or contradict each other.", "See --help of the command."),
    "E-VER": ("A later monai-sr made what stands there.", "Update monai-sr, or write to another folder."),
    "E-W-BUNDLE": ("There is no such bundle.", "Give residual, pyramid, none, or the path of a bundle folder."),
    "E-W-CONFIG": ("The configuration of a bundle cannot be read, or is of another kind.", "Restore the bundle."),
    "E-W-HASH": (
        "The weights are damaged, or hold something else than plain tensors; nothing in them was run.",
        "Restore models/model.pt of the bundle.",
    ),
    "E-W-INT8": (
        "The 8-bit form of a bundle (models/int8.json) is missing, damaged, or was made from other weights.",
        "Give --precision float32, or make it anew by python -m monai_sr.evaluation.quantize.",
    ),
    "E-W-MISSING": ("The weights, or the example, are missing.", "Install the package or restore the bundle anew."),
    "E-W-SHAPE": (
        "The weights belong to another network than the configuration describes.",
        "Give weights and configs of the same version.",
    ),
    "E-W-TRUST": (
        "A bundle that does not ship with monai-sr: its configuration may run any code.",
        "Look into its configs, then give --trust-bundle.",
    ),
    "E-WORKER": (
        "Every process that worked on the volume was killed, mostly for memory.",
        "Give it more memory, or look into the system's log.",
    ),
    "E-ZIP-CRYPT": ("The archive is encrypted.", "Unpack it and give the folder."),
    "W-BIDS-THICKNESS": (
        "SliceThickness beside a BIDS image is none of CT or MR in mm; it is not used.",
        "Correct it, or give --slice-thickness.",
    ),
    "W-CON-LIMIT": (
        "A result contradicts the acquired slices by more than the bundle's limit.",
        "Check the slice thickness; look at --consistency-map; --strict makes it an error.",
    ),
    "W-CT-HU": (
        "The values of a CT reach down neither to air nor to fat: perhaps they are no Hounsfield units.",
        "Check the rescale; --strict makes it an error.",
    ),
    "W-CT-NORESCALE": (
        "The header of a CT has no rescale; its values look like HU and are taken so.",
        "Check a voxel of air: it should be near -1000.",
    ),
    "W-DCM-DUP": ("Slices are there twice with equal pixels; one of each is used.", "Nothing."),
    "W-DCM-GAP": ("Missing slices were filled from their neighbors.", "Mind those slices; they are marked."),
    "W-DCM-MERGED": ("Series of one slice each were taken as one.", "Check that they belong together."),
    "W-DCM-MIXED": ("Matrix, spacing or frame of reference differ within a series; it is split.", "Nothing."),
    "W-DCM-PREAMBLE": ("Files without the DICOM preamble were read all the same.", "Nothing."),
    "W-DCM-THICKNESS": ("Slices of one series differ in thickness; each is taken as it is.", "Nothing."),
    "W-DCM-TILT": ("Slices are sheared (gantry tilt); the volume was made upright.", "Nothing."),
    "W-DCM-UNEVEN": ("Slices are unevenly spaced; each is used where it lies.", "Nothing."),
    "W-DEV": (
        "There is a GPU, but it cannot compute, so the CPU does.",
        "Look at the driver and at the build of torch that the message names.",
    ),
    "W-HDR-AFFINE": (
        "The sform holds NaN or infinite values; the qform is used.",
        "Check where the result lies, and repair the header.",
    ),
    "W-HDR-FORMS": (
        "sform and qform put the volume in different places.",
        "Check which is right, and choose it by --geometry.",
    ),
    "W-HDR-NOFORM": (
        "The header tells no orientation, only the spacing; neither does that of the result.",
        "Convert from the original DICOM if left and right matter.",
    ),
    "W-HDR-UNITS": ("The header counts in meters or micrometers; the result is in mm.", "Check the spacing."),
    "W-IMG-NAN": (
        "NaN and infinite voxels were taken as the least value, and the result holds numbers there.",
        "Mask the result if they meant something; --nan refuse makes it an error.",
    ),
    "W-IO-NAME": ("The name of a file says compressed and the content does not, or the reverse.", "Rename it."),
    "W-MEM-JOBS": (
        "Memory does not suffice for so many jobs, so fewer are run.",
        "Nothing; or run on a machine with more memory.",
    ),
    "W-MEM-LADDER": (
        "Memory ran out, so the result was made with smaller tiles or on the CPU. Its voxels are the same.",
        "Nothing; or run on a device with more memory.",
    ),
    "W-OUT-CLIP": (
        "Some voxels lie beyond what the voxel type of the file holds, and are held at its ends.",
        "Convert the input to float32 if those values matter.",
    ),
    "W-PACS-PLAIN": (
        "The archive is spoken to by http, so images and credentials can be read on the way.",
        "Use https.",
    ),
    "W-RANGE-FIELD": (
        "The field of view is larger than any that the bundle was trained on.",
        "Crop the volume to what matters, or mind the result; --strict makes it an error.",
    ),
    "W-RANGE-INPLANE": (
        "The in-plane spacing is beyond those that the bundle was trained on.",
        "Mind that the result may be no better than interpolation; --strict makes it an error.",
    ),
    "W-RANGE-MODALITY": (
        "The bundle was not trained on images of this modality.",
        "Take a bundle for it, or --bundle none; --strict makes it an error.",
    ),
    "W-RANGE-SLICES": (
        "The slice spacing is beyond those that the bundle was trained on.",
        "Mind that the result may be no better than interpolation; --strict makes it an error.",
    ),
    "W-RANGE-THICKNESS": (
        "Slices are thinner or thicker, for their spacing, than those that the bundle was trained on.",
        "Check the slice thickness; --strict makes it an error.",
    ),
    "W-RANGE-VALUES": (
        "Values are beyond those that the bundle was trained on, as of metal or of wrong units.",
        "Check the units; mind the result around those values; --strict makes it an error.",
    ),
    "W-REPORT": (
        "The page about a volume could not be written; the result is as it should be.",
        "Run again with --report when the cause that the message names is gone.",
    ),
    "W-SR-NOGAIN": (
        "No finer spacing was wanted: the image is passed through.",
        "Ask for a finer --spacing; --strict makes it an error.",
    ),
    "W-SR-RANGE": (
        "The factor is beyond those that the network was trained for.",
        "Mind that the result may be no better than interpolation; --strict makes it an error.",
    ),
}
"""Code: meaning, remedy."""
