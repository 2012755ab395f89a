"""The programs that the runtime executes in an image. Data only: docs/image-format.md.

Apps are those of SCIF: $SINGULARITY_APPNAME says which one is meant.
"""

from singbuild.tree import chroot

# A variable of these programs hides the caller's of the same name: theirs have names of their own.
_SOURCE = """#!/bin/sh
for _singularity_env in /.singularity.d/env/*.sh; do
    case $_singularity_env in  # somebody put a file in the place of the link
        */90-environment.sh)
            [ -h /environment ] || [ ! -f /environment ] || _singularity_env=/environment
            ;;
    esac
    [ -f "$_singularity_env" ] && . "$_singularity_env"
done
unset _singularity_env
"""


def _app(program: str, what: str) -> str:
    """Return shell text that becomes the program of an app, if one is asked for."""
    return f"""if [ -n "${{SINGULARITY_APPNAME:-}}" ]; then
    [ ! -x "/scif/apps/$SINGULARITY_APPNAME/scif/{program}" ] ||
        exec "/scif/apps/$SINGULARITY_APPNAME/scif/{program}" "$@"
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
    + """for _singularity_shell in "$SINGULARITY_SHELL" "$SHELL" /bin/bash /bin/sh; do
    if [ -n "$_singularity_shell" ] && [ -x "$_singularity_shell" ]; then
        export SHELL="$_singularity_shell"
        case "${SHELL##*/}" in
            bash) exec "$SHELL" --norc --noprofile "$@" ;;
            *) exec "$SHELL" "$@" ;;
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
