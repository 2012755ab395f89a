"""The programs that the runtime executes in an image. Data only: docs/image-format.md.

Apps are those of SCIF: $SINGULARITY_APPNAME says which one is meant.
"""

from singbuild.tree import chroot
from singrun.environment import assignments


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
    "exec": assignments.EXEC,
    "run": assignments.SOURCE
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
    "shell": assignments.SOURCE
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
    "test": assignments.SOURCE
    + _app("test", "%apptest")
    + """if [ -x /.singularity.d/test ]; then
    exec /.singularity.d/test "$@"
fi
echo "No test code provided in this container" >&2
""",
}
BASE = f'export PATH="{chroot.PATH}"\n'
