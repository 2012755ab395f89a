#!/bin/sh
# Puts singrun.pyz on nodes: install-nodes.sh singrun.pyz NODE...   node[01-99] if Slurm is there
set -eu
say='say: install-nodes.sh singrun.pyz NODE...'
file=${1:?$say}
: "${2:?$say}"
shift
if command -v scontrol >/dev/null; then
    # shellcheck disable=SC2046  one word per node is meant
    set -- $(for name in "$@"; do scontrol show hostnames "$name" 2>/dev/null || echo "$name"; done)
fi
export file target="${SINGRUN_TARGET:-/usr/local/bin/singrun}" ssh="${SINGRUN_SSH:-ssh -o BatchMode=yes}"
exec 3>&1
# Sixteen nodes at a time. The new file gets its name when it is whole, so that a launch meanwhile
# finds one or the other.
failed=$(printf '%s\n' "$@" | xargs -P 16 -I NODE sh -c '
    $ssh "$1" "cat >$target.new && chmod 755 $target.new && mv $target.new $target && $target --version" \
        <"$file" >&3 || printf " %s" "$1"' sh NODE)
[ -z "$failed" ] || { echo "Not installed on:$failed" >&2; exit 1; }
