// Super-resolve scans, one process each:
//   nextflow run main.nf --scans 'scans/*.nii.gz' --thin thin
params.scans = 'scans/*.nii.gz'
params.thin = 'thin'
params.bundle = 'residual'

process SUPER_RESOLVE {
    tag "${scan.name}"
    cpus 2
    memory '4 GB'
    errorStrategy 'ignore' // a bad scan stops no other; its reason is in the log
    publishDir params.thin, mode: 'copy'

    input:
    path scan

    output:
    path "thin/${scan.name}"

    script:
    """
    mkdir thin
    OMP_NUM_THREADS=${task.cpus} monai-sr run '${scan}' 'thin/${scan.name}' --bundle '${params.bundle}'
    """
}

workflow {
    SUPER_RESOLVE(channel.fromPath(params.scans))
}
