"""singrun env: the variables inside, and with --why which layer set one of them."""

import os

from singrun.environment import assignments
from singrun.environment.inherited import Environment
from singrun.environment.variables import Override

# $1: the name. $2…: what the layers above the image's scripts set, lowest first: each "layer",
# "how" and "value", see Override. The scripts run in this very shell, one by one, and after each
# the variable is looked at.
_SCRIPT = (
    assignments.OF_BASH
    + """name=$1; shift
report() {
  eval "new=\\${$name-} is=\\${$name+set}"
  [ "$new" = "$old" ] && [ "$is" = "$was" ] && return
  if [ "$is" ]; then
    printf '%s: %s=%s\\n' "$1" "$name" "$new"
  else
    printf '%s: unset\\n' "$1"
  fi
  last=$1; old=$new; was=$is
}
old= was= last=nobody
report "$1"; shift
for file in /.singularity.d/env/*.sh; do
  case $file in
    */zzz-singrun.sh) continue ;;
    */90-environment.sh) [ -h /environment ] || [ ! -f /environment ] || file=/environment ;;
  esac
  if [ -f "$file" ]; then . "$file"; report "image, $file"; fi
done
if [ ! -d /.singularity.d/env ] && [ -f /environment ]; then
  . /environment
  report "image, /environment"
fi
while [ $# -gt 2 ]; do
  case $2 in
    set) eval "export $name=\\$3" ;;
    before) eval "export $name=\\$3\\${$name:+:\\$$name}" ;;
    behind) eval "export $name=\\${$name:+\\$$name:}\\$3" ;;
  esac
  old= was=
  report "$1"
  shift 3
done
printf 'set by: %s\\n' "$last"
"""
)


def arguments(name: str, caller_variables: Environment, overrides: list[Override]) -> list[bytes]:
    """Return the arguments with which the image's /bin/sh tells who set ``name``.

    caller_variables: the caller's variables, which no image sets.
    """
    variable = name.encode()
    callers = [Override(each, value, "the caller") for each, value in caller_variables.items()]
    layers = [
        word
        for each in (*callers, *overrides)
        if each.name == variable
        for word in (os.fsencode(each.layer), each.how.encode(), each.value)
    ]
    return [b"-c", _SCRIPT.encode(), b"singrun-env", variable, b"host or singrun", *layers]
