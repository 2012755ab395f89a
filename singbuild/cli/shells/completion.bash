# Bash completion for @PROGRAMS@, written by: singbuild completion bash

_singbuild_rows() {
    cat <<'ROWS'
@ROWS@
ROWS
}

# What each word takes, by its place and itself; the words of each place.
declare -gA _singbuild_takes _singbuild_words

_singbuild_load() {
    [ -z "${_singbuild_words[${COMP_WORDS[0]##*/}]-}" ] || return 0
    local place word takes help
    while IFS='|' read -r place word takes help; do
        _singbuild_takes["$place $word"]=$takes
        _singbuild_words["$place"]+=" $word"
    done < <(_singbuild_rows)
}

_singbuild_files() { # the beginning of a name; endings
    local each ending
    compopt -o filenames 2>/dev/null
    while IFS= read -r each; do
        [ ! -d "$each" ] || { printf '%s\n' "$each" && continue; }
        [ "$2" ] || printf '%s\n' "$each"
        for ending in $2; do
            case $each in *"$ending") printf '%s\n' "$each" && break ;; esac
        done
    done < <(compgen -f -- "$1")
}

_singbuild_offered() { # what a value is; its beginning
    local kind=${1%% *} rest=''
    [ "$kind" = "$1" ] || rest=${1#* }
    case $kind in
        words) compgen -W "$rest" -- "$2" ;;
        file) _singbuild_files "$2" "$rest" ;;
        directory) compopt -o filenames 2>/dev/null; compgen -d -- "$2" ;;
        output) compgen -W "$($rest 2>/dev/null | sed -n '/^$/q; s/^\([a-z][a-z0-9._-]*\) .*/\1/p')" -- "$2" ;;
    esac
}

_singbuild_complete() {
    local place=${COMP_WORDS[0]##*/} word=${COMP_WORDS[COMP_CWORD]} takes='' count=0 each i
    _singbuild_load
    [ "$word" != = ] || word=''
    for ((i = 1; i < COMP_CWORD; i++)); do
        each=${COMP_WORDS[i]}
        if [ "$each" = = ]; then
            continue # readline takes it as a word of its own
        elif [ "$takes" ]; then
            takes=''
        elif [[ $each == -* && ($count = 0 || ! -v _singbuild_takes["$place ."]) ]]; then
            [[ -v _singbuild_takes["$place $each"] ]] || continue
            takes=${_singbuild_takes["$place $each"]:-any}
            [ "$takes" != - ] || takes=''
        elif [ "$count:${_singbuild_takes["$place $each"]-}" = 0:command ]; then
            place+=" $each"
        else
            count=$((count + 1))
        fi
    done
    COMPREPLY=()
    local start='' offered=''
    if [ -z "$takes" ] && [[ $word == --*=* ]]; then
        start=${word%%=*}
        takes=${_singbuild_takes["$place $start"]-}
        start+== word=${word#*=}
    fi
    if [ -z "$takes" ]; then
        if [[ $word == -* ]]; then
            [[ $count = 0 || ! -v _singbuild_takes["$place ."] ]] || return 0
            for each in ${_singbuild_words["$place"]-}; do
                case $each in -*) offered+=" $each" ;; esac
            done
            mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$word")
            return 0
        fi
        if [ $count = 0 ]; then
            for each in ${_singbuild_words["$place"]-}; do
                [ "${_singbuild_takes["$place $each"]}" != command ] || offered+=" $each"
            done
        fi
        takes=${_singbuild_takes["$place $((count + 1))"]-${_singbuild_takes["$place *"]-}}
    fi
    mapfile -t COMPREPLY < <(
        compgen -W "$offered" -- "$word"
        _singbuild_offered "$takes" "$word"
    )
    COMPREPLY=("${COMPREPLY[@]/#/$start}")
    case $takes in file* | directory) compopt -o filenames 2>/dev/null ;; esac
    return 0
}

complete -F _singbuild_complete @PROGRAMS@
