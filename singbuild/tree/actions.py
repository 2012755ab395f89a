"""The programs that the runtime executes in an image. Data only: docs/image-format.md.

Apps are those of SCIF: $SINGULARITY_APPNAME says which one is meant.
"""

from singbuild.tree import chroot

_SOURCE = """#!/bin/sh
for script in /.singularity.d/env/*.sh; do
    case $script in  # somebody put a file in the place of the link
        */90-environment.sh) [ -h /environment ] || [ ! -f /environment ] || script=/environment ;;
    esac
    [ -f "$script" ] && . "$script"
done
unset script
"""


def _app(program: str, what: str) -> str:
    """Return shell text that becomes the program of an app, if one is asked for."""
    return f"""if [ -n "${{SINGULARITY_APPNAME:-}}" ]; then
    app=/scif/apps/$SINGULARITY_APPNAME/scif/{program}
    [ -x "$app" ] && exec "$app" "$@"
    echo "The app $SINGULARITY_APPNAME has no {what}" >&2
    exit 1
fi
"""


ACTIONS = {
    "exec": _SOURCE
    + """case ${1-} in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
esac || {
    printf 'There is no command %s in the image\\n' "${1-}" >&2
    exit 127
}
exec "$@"
""",
    "run": _SOURCE
    + _app("runscript", "%apprun")
    + """if [ -f /singularity ] && [ ! -h /singularity ] && [ -x /singularity ]; then
    exec /singularity "$@"
fi
if [ -x /.singularity.d/runscript ]; then
    exec /.singularity.d/runscript "$@"
fi
echo "No Singularity runscript found, executing /bin/sh" >&2
exec /bin/sh "$@"
""",
    "shell": _SOURCE
    + """for shell in "$SINGULARITY_SHELL" "$SHELL" /bin/bash /bin/sh; do
    if [ -n "$shell" ] && [ -x "$shell" ]; then
        export SHELL="$shell"
        case "${shell##*/}" in
            bash) exec "$shell" --norc --noprofile "$@" ;;
            *) exec "$shell" "$@" ;;
        esac
    fi
done
echo "No shell found in this container" >&2
exit 127
""",
    "test": _SOURCE
    + _app("test", "%apptest")
    + """if [ -x /.singularity.d/test ]; then
    exec /.singularity.d/test "$@"
fi
echo "No test code provided in this container" >&2
""",
}
BASE = f'export PATH="{chroot.PATH}"\n'
