# Bash completion for singbuild, singrun, singularity and apptainer: what their --help lists is what is offered.

_singbuild_complete() {
    local command=$1 word=$2 verb='' each help
    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $each in -*) ;; *) verb=$each && break ;; esac
    done
    COMPREPLY=()
    case $word in
        -*)
            help=$("$command" ${verb:+"$verb"} --help 2>/dev/null)
            ;;
        *)
            [ -z "$verb" ] || return 0 # files: "complete -o default"
            help=$("$command" --help 2>/dev/null | sed -n '
                s/^\(Use\|Create\|Change\|Know\): *//p
                /^\(Verbs\|Commands\)\>/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p')
            ;;
    esac
    case $word in
        -*) help=$(grep -oE -- '(^|[ ,])--?[a-zA-Z][a-z-]*' <<<"$help" | tr -d ' ,' | sort -u) ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "${help//,/ }" -- "$word")
}

complete -o default -o bashdefault -F _singbuild_complete singbuild singrun singularity apptainer
