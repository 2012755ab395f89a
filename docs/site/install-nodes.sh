#!/bin/sh
# Puts singrun.pyz on nodes: install-nodes.sh singrun.pyz NODE...   node[01-99] if Slurm is there
set -eu
file=${1:?say: install-nodes.sh singrun.pyz NODE...}
shift
if command -v scontrol >/dev/null; then
    # shellcheck disable=SC2046  one word per node is meant
    set -- $(for name in "$@"; do scontrol show hostnames "$name" 2>/dev/null || echo "$name"; done)
fi
target=${SINGRUN_TARGET:-/usr/local/bin/singrun}
failed=''
for node in "$@"; do
    # The new file gets its name when it is whole, so that a launch meanwhile finds one or the other.
    ${SINGRUN_SSH:-ssh -o BatchMode=yes} "$node" \
        "cat >'$target.new' && chmod 755 '$target.new' && mv '$target.new' '$target' && '$target' --version" \
        <"$file" || failed="$failed $node"
done
[ -z "$failed" ] || { echo "Not installed on:$failed" >&2; exit 1; }
