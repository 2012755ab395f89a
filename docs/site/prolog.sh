#!/bin/sh
# Slurm's Prolog: runs as root before a user's first step on a node.
# Makes a place on the local disk for unpacked images, private to the user: what singrun.conf.compute
# names as its cache directory. It never fails: Slurm would drain the node, and singrun works without.
set -u
parent=${SINGRUN_SITE_CACHE:-/scratch/singrun}
cache=$parent/singrun-${SLURM_JOB_UID:-}
[ -n "${SLURM_JOB_UID:-}" ] || exit 0

complain() {
    echo "prolog.sh: $1" >&2 # in slurmd's log
    exit 0
}

# Nobody but root may write where it is made (nor rename it: what is above must be root's or sticky).
# Another user could put a tree of his own there first, or a link that leads the chown elsewhere.
mkdir -m 755 "$parent" 2>/dev/null || :
[ "$(stat -c '%F %u %a' "$parent")" = 'directory 0 755' ] ||
    complain "$parent must be a directory of root's, mode 755"
if mkdir -m 700 "$cache" 2>/dev/null; then
    chown -h "$SLURM_JOB_UID" "$cache"
fi
case $(stat -c '%F %u %a' "$cache") in
    "directory $SLURM_JOB_UID 700") ;;
    "directory $SLURM_JOB_UID "*) chmod 700 "$cache" ;; # which its owner has opened
    *) complain "$cache is not a directory of user $SLURM_JOB_UID" ;;
esac

# An image that all use may be unpacked beforehand, as the user:
#     runuser -u "$(id -nu "$SLURM_JOB_UID")" -- singrun warm /apps/site.img
exit 0
