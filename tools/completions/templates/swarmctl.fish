# Completion of swarmctl for fish.
# @@marker@@
#
# This script starts no process: names come from globbing. Functions with -S read and set local variables of
# __swarmctl_complete: path (the commands typed so far), position (number of arguments before the cursor),
# typed (the word at the cursor), before (the part of the word before the value), kind (the kind of value expected)
# and list (the candidates).

function __swarmctl_enter -S -d 'Enter a command if it exists'
    switch "$path:$argv[1]"
@@enter@@
        case '*'
            return 1
    end
    return 0
end

function __swarmctl_takes -S -d 'Set kind to the kind of value an option takes; leave it empty for a flag'
    switch "$path:$argv[1]"
@@takes@@
    end
end

function __swarmctl_options -S -d 'Set list to the options available here'
    switch "$path"
@@options@@
    end
end

function __swarmctl_argument -S -d 'Set kind to the kind of argument expected here'
    switch "$path:$position"
@@arguments@@
    end
end

function __swarmctl_setting -S -d 'Offer settings or the values of a setting'
    if not string match -q '*=*' -- "$typed"
        set list @@settings@@
        return
    end
    set -l key (string replace -r '=.*' '' -- $typed)
    set before "$before$key="
    switch "$key"
@@values@@
    end
end

# Control characters would end or split a candidate.
function __swarmctl_names -d 'Print file names without their suffix'
    for file in $argv[2..]
        string match -qr '[[:cntrl:]]' -- $file
        or string replace -r -- '^.*/' '' (string sub -e -(string length -- $argv[1]) -- $file)
    end
end

function __swarmctl_complete -d 'Print the candidates for the word at the cursor'
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l path ''
    set -l position 0
    set -l before ''
    set -l kind ''
    set -l list
    set -l only_arguments
    for word in $words[2..]
        if test -n "$kind"
            set kind ''
        else if test -z "$only_arguments"; and string match -q -- -- $word
            set only_arguments 1
        else if test -z "$only_arguments"; and string match -q -- '-*' $word
            string match -q -- '*=*' $word; or __swarmctl_takes $word
        else
            __swarmctl_enter $word; or set position (math $position + 1)
        end
    end
    if test -z "$kind$only_arguments"; and string match -q -- '--*=*' $typed
        set before (string replace -r '=.*' '=' -- $typed)
        set typed (string replace -r '^[^=]*=' '' -- $typed)
        __swarmctl_takes (string trim -r -c = -- $before)
    else if test -z "$kind$only_arguments"; and string match -q -- '-*' $typed
        __swarmctl_options
    else if test -z "$kind"
        __swarmctl_argument
    end
    set -l profiles $HOME/.config/swarmctl/profiles
    set -l nodes $HOME/.local/share/swarmctl/nodes
    if set -q SWARMCTL_HOME; and test -n "$SWARMCTL_HOME"
        set -l home (string replace -r '^~(?=/|$)' -- $HOME $SWARMCTL_HOME)
        set profiles $home/profiles
        set nodes $home/nodes
    end
    switch "$kind"
        case setting
            __swarmctl_setting
        case node
            set list (__swarmctl_names / $nodes/*/)
        case profile
            set list @@profiles@@ (__swarmctl_names .toml $profiles/*.toml)
            string match -q -- (string trim -l -c '"\'' -- "$typed")'*' $list; or set list (__fish_complete_path $typed)
        case file
            set list (__fish_complete_path $typed)
        case directory
            set list (__fish_complete_directories $typed '')
    end
    test -z "$list"; or printf '%s\n' $before$list
end

complete -c swarmctl -f -a '(__swarmctl_complete)'
