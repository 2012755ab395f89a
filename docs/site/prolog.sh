#!/bin/sh
# Slurm's Prolog: runs as root before a user's first step on a node.
# Makes a place on the local disk for unpacked images, private to the user.
set -eu
cache=${SINGRUN_SITE_CACHE:-/scratch}/singrun-${SLURM_JOB_UID:?is set by slurmd}
mkdir -p "$cache"
chown "$SLURM_JOB_UID" "$cache"
chmod 700 "$cache"

# An image that all use may be unpacked beforehand, as the user:
#     runuser -u "$(id -nu "$SLURM_JOB_UID")" -- env SINGRUN_CACHEDIR="$cache" singrun warm /apps/site.img
