# Fish completion for @PROGRAMS@, written by: singbuild completion fish

function __singbuild_rows
    printf '%s\n' '@ROWS@'
end

# The rows of a place, with what each takes and its help: word|takes|help.
function __singbuild_at
    set -l start "$argv[1]|"
    for row in $__singbuild_table
        string match -q -- "$start*" $row; and string replace -- $start '' $row
    end
end

# What a word takes at a place; the status says whether it is known there.
function __singbuild_takes
    for row in $argv[2..]
        set -l cells (string split -m 2 '|' -- $row)
        if test "$cells[1]" = "$argv[1]"
            echo $cells[2]
            return 0
        end
    end
    return 1
end

function __singbuild_offer # what a value is; its beginning; what stands before it in the word
    set -l words (string split ' ' -- $argv[1])
    set -l rest $words[2..]
    switch $words[1]
        case words
            printf '%s\n' $argv[3]$rest
        case file any
            set -l offered
            for name in (__fish_complete_path $argv[2])
                set -l plain (string split -f 1 \t -- $name)
                if test -z "$rest"; or string match -q '*/' -- $plain
                    set -a offered $argv[3]$name
                else
                    for ending in $rest
                        string match -q -- "*$ending" $plain; and set -a offered $argv[3]$name
                    end
                end
            end
            printf '%s\n' $offered
        case directory
            printf '%s\n' $argv[3](__fish_complete_directories $argv[2])
        case output
            printf '%s\n' $argv[3]($rest 2>/dev/null | sed -n '/^$/q; s/^\([a-z][a-z0-9._-]*\) .*/\1/p')
    end
end

function __singbuild_complete
    set -q __singbuild_table; or set -g __singbuild_table (__singbuild_rows)
    set -l before (commandline -opc)
    set -l word (commandline -ct)
    set -l place (string replace -r '.*/' '' -- $before[1])
    set -l rows (__singbuild_at $place)
    set -l takes ''
    set -l count 0
    set -l free yes # options may stand here
    for each in $before[2..]
        if test -n "$takes"
            set takes ''
        else if string match -q -- '-*' $each; and test $free = yes
            set -l value (__singbuild_takes $each $rows); or continue
            set takes $value
            test -n "$takes"; or set takes any
            test "$takes" != -; or set takes ''
        else if test $count = 0; and test "$(__singbuild_takes $each $rows)" = command
            set place "$place $each"
            set rows (__singbuild_at $place)
        else
            set count (math $count + 1)
            __singbuild_takes . $rows >/dev/null; and set free no
        end
    end
    set -l start ''
    if test -z "$takes"; and string match -q -- '--*=*' $word
        set -l parts (string split -m 1 = -- $word)
        set takes (__singbuild_takes $parts[1] $rows)
        set start $parts[1]=
        set word $parts[2]
    end
    if test -n "$takes"
        __singbuild_offer $takes "$word" "$start"
        return
    end
    for row in $rows
        set -l cells (string split -m 2 '|' -- $row)
        if string match -q -- '-*' $word
            string match -q -- '-*' $cells[1]; and test $free = yes; and printf '%s\t%s\n' $cells[1] $cells[3]
        else if test $count = 0; and test "$cells[2]" = command
            printf '%s\t%s\n' $cells[1] $cells[3]
        end
    end
    if not string match -q -- '-*' $word
        set -l value (__singbuild_takes (math $count + 1) $rows); or set value (__singbuild_takes '*' $rows)
        test -z "$value"; or __singbuild_offer $value "$word" ''
    end
end

for program in @PROGRAMS@
    complete -c $program -f -a '(__singbuild_complete)'
end
