"""singrun env: the variables inside, and with --why which layer set one of them."""

from singrun.environment.variables import Winner

# $1: the name. $2…: what the layers above the image's scripts set, lowest first, as
# "layer" "value" pairs. The scripts run in this very shell, so they are asked one by one.
_SCRIPT = """
name=$1; shift
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
  case $file in */zzz-singrun.sh) continue ;; esac
  if [ -f "$file" ]; then . "$file"; report "image, $file"; fi
done
if [ ! -d /.singularity.d/env ] && [ -f /environment ]; then
  . /environment
  report "image, /environment"
fi
while [ $# -gt 1 ]; do
  eval "export $name=\\$2"
  old= was=
  report "$1"
  shift 2
done
printf 'set by: %s\\n' "$last"
"""


def arguments(name: str, winning: list[Winner]) -> list[bytes]:
    """Return the arguments with which the image's /bin/sh tells who set ``name``."""
    wanted = name.encode()
    layers = [
        word
        for each in winning
        if each.name == wanted
        for word in (each.layer.encode("utf-8", "surrogateescape"), each.value)
    ]
    return [b"-c", _SCRIPT.encode(), b"singrun-env", wanted, b"host or singrun", *layers]
