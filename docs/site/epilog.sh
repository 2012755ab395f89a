#!/bin/sh
# Slurm's Epilog: runs as root after a job's last step on a node.
# Containers leave nothing behind; only unpacked images stay, for the user's next job. When
# this was the user's last job on the node, they go.
set -eu
cache=${SINGRUN_SITE_CACHE:-/scratch/singrun}/singrun-${SLURM_JOB_UID:?is set by slurmd}
[ -d "$cache" ] && [ ! -L "$cache" ] || exit 0
others=$(squeue -h -w "${SLURMD_NODENAME:-$(hostname -s)}" -u "$SLURM_JOB_UID" -t running -o %A \
    | grep -vcx "${SLURM_JOB_ID:?is set by slurmd}" || true)
[ "$others" != 0 ] || rm -rf --one-file-system "$cache"
