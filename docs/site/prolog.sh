#!/bin/sh
# Slurm's Prolog: runs as root before a user's first step on a node.
# Makes a place on the local disk for unpacked images, private to the user.
set -eu
parent=${SINGRUN_SITE_CACHE:-/scratch/singrun}
cache=$parent/singrun-${SLURM_JOB_UID:?is set by slurmd}

# Nobody but root may write where it is made (nor rename it: what is above must be root's or sticky).
# Another user could put a tree of his own there first, or a link that leads the chown elsewhere.
mkdir -m 755 "$parent" 2>/dev/null || :
[ "$(stat -c '%F %u %a' "$parent")" = 'directory 0 755' ] || {
    echo "prolog.sh: $parent must be a directory of root's, mode 755" >&2
    exit 1
}
if mkdir -m 700 "$cache" 2>/dev/null; then
    chown -h "$SLURM_JOB_UID" "$cache"
fi
[ "$(stat -c '%F %u %a' "$cache")" = "directory $SLURM_JOB_UID 700" ] || {
    echo "prolog.sh: $cache is not a private directory of user $SLURM_JOB_UID" >&2
    exit 1
}

# An image that all use may be unpacked beforehand, as the user:
#     runuser -u "$(id -nu "$SLURM_JOB_UID")" -- env SINGRUN_CACHEDIR="$cache" singrun warm /apps/site.img
