#!/bin/sh
# Slurm's Epilog: runs as root after a job's last step on a node.
# Containers leave nothing behind; only unpacked images stay, for the user's next job. When
# this was the user's last job on the node, they go. It never fails: Slurm would drain the node.
set -u
cache=${SINGRUN_SITE_CACHE:-/scratch/singrun}/singrun-${SLURM_JOB_UID:-}
[ -n "${SLURM_JOB_UID:-}" ] && [ -n "${SLURM_JOB_ID:-}" ] && [ -d "$cache" ] && [ ! -L "$cache" ] || exit 0

# A controller that does not answer says nothing about other jobs: then all stays, for the next epilogue.
jobs=$(squeue -h -w "${SLURMD_NODENAME:-$(hostname -s)}" -u "$SLURM_JOB_UID" \
    -t running,suspended,completing,configuring,stopped -o %A) || exit 0
for job in $jobs; do
    [ "$job" = "$SLURM_JOB_ID" ] || exit 0
done
rm -rf --one-file-system "$cache" || :
