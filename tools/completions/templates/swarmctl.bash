# Completion of swarmctl for bash (3.2 and newer).
# @@marker@@
#
# This script starts no process and never evaluates file names: names come from globbing and are quoted before they are
# offered. The helpers read and set local variables of _swarmctl:
#   path      the commands typed so far         position  number of arguments before the cursor
#   typed     the word at the cursor, unquoted  quote     the quote that the word begins with, if any
#   before    the part of the word before the value (--option=, KEY=)
#   cut       how much of the word readline keeps, because for readline words also end at =, : and @
#   kind      the kind of value expected here   list      the candidates if they are fixed

# Enter the command $1 if it exists.
__swarmctl_enter() {
    case "$path:$1" in
@@enter@@
        *) return 1 ;;
    esac
}

# Set kind to the kind of value that the option $1 takes; leave it empty for a flag.
__swarmctl_takes() {
    case "$path:$1" in
@@takes@@
    esac
}

# Set list to the options available here.
__swarmctl_options() {
    case $path in
@@options@@
    esac
}

# Set kind to the kind of argument expected here.
__swarmctl_argument() {
    case "$path:$position" in
@@arguments@@
    esac
}

# Set list to the values of the setting $1 if there are only a few.
__swarmctl_values() {
    list=
    case $1 in
@@values@@
    esac
}

# Set REPLY to $1 without quotes and backslashes, and quote to the quote it begins with.
__swarmctl_unquote() {
    REPLY=$1
    quote=
    case $1 in
        \"*) quote=\" REPLY=${1#\"} REPLY=${REPLY%\"} ;;
        \'*) quote=\' REPLY=${1#\'} REPLY=${REPLY%\'} ;;
    esac
    if [[ $quote != \' && $REPLY == *\\* ]]; then
        # Without -r, read only removes the backslashes.
        IFS= read REPLY <<<"$REPLY" || :
    fi
}

# Split the line at spaces into words (those before the cursor) and typed. $1 is the text that readline will replace.
__swarmctl_words() {
    local i raw line=${COMP_LINE:0:COMP_POINT} joins= last=0
    words=()
    for ((i = 1; i <= COMP_CWORD; i++)); do
        raw=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then
            while [[ -n $raw && $line != *"$raw" ]]; do raw=${raw%?}; done
        fi
        __swarmctl_unquote "$raw"
        if [[ -n $raw && $last -gt 0 && ( -n $joins || $raw != *[!=:@]* ) ]]; then
            words[last - 1]+=$REPLY
        else
            words[last]=$REPLY
            last=$((last + 1))
        fi
        joins=
        [[ -z $raw || $raw == *[!=:@]* ]] || joins=1
    done
    typed=${words[last - 1]}
    unset "words[last - 1]"
    i=$quote
    __swarmctl_unquote "$i$1"
    cut=$((${#typed} - ${#REPLY}))
}

# Offer the arguments that begin with the typed text, quoted to match the word at the cursor.
__swarmctl_offer() {
    local word
    for word; do
        [[ $word == "$typed"* ]] || continue
        word=$before$word
        word=${word:cut}
        case $quote in
            \")
                word=${word//\\/\\\\} word=${word//\"/\\\"}
                word=${word//\$/\\\$} word=${word//\`/\\\`}
                ;;
            \') word=${word//\'/\'\\\'\'} ;;
            *) [[ $word != *[!A-Za-z0-9_./:=@%+,-]* ]] || printf -v word %q "$word" ;;
        esac
        COMPREPLY[${#COMPREPLY[@]}]=$word
    done
}

# Offer the names of the files $1/*$2, without $2. Skip names with control characters.
__swarmctl_names() {
    local file name fail=
    if shopt -q failglob; then
        fail=1
        shopt -u failglob
    fi
    for file in "$1"/*"$2"; do
        [[ -e $file ]] || continue
        file=${file%"$2"}
        name=${file##*/}
        [[ $name == .* || $name == *[[:cntrl:]]* ]] || __swarmctl_offer "$name"
    done
    [[ -z $fail ]] || shopt -s failglob
}

# Let readline complete file names ($1 empty) or directory names ($1 = dirnames).
__swarmctl_files() {
    local file
    if ((BASH_VERSINFO[0] >= 4)); then
        compopt -o "${1:-default}"
    else
        for file in "$typed"*; do
            [[ ! -e $file ]] || __swarmctl_offer "$file"
        done
    fi
}

__swarmctl_setting() {
    local key
    if [[ $typed == *=* ]]; then
        key=${typed%%=*}
        before+=$key=
        typed=${typed#*=}
        __swarmctl_values "$key"
        __swarmctl_offer $list
    else
        ((BASH_VERSINFO[0] < 4)) || compopt -o nospace
        __swarmctl_offer @@settings@@
    fi
}

_swarmctl() {
    local IFS=$' \t\n' REPLY path= position=0 typed= quote= before= cut=0 kind= list= word arguments=
    local -a words
    COMPREPLY=()
    __swarmctl_words "$2"
    for word in ${words[@]+"${words[@]}"}; do
        if [[ -n $kind ]]; then
            kind=
        elif [[ $word == -- && -z $arguments ]]; then
            arguments=1
        elif [[ $word == -* && -z $arguments ]]; then
            [[ $word == *=* ]] || __swarmctl_takes "$word"
        else
            __swarmctl_enter "$word" || position=$((position + 1))
        fi
    done
    if [[ -z $kind && -z $arguments && $typed == --*=* ]]; then
        __swarmctl_takes "${typed%%=*}"
        before=${typed%%=*}=
        typed=${typed#*=}
    elif [[ -z $kind && -z $arguments && $typed == -* ]]; then
        __swarmctl_options
        kind=words
    elif [[ -z $kind ]]; then
        __swarmctl_argument
    fi
    local home=${SWARMCTL_HOME-}
    [[ $home != "~" && $home != "~/"* ]] || home=$HOME${home#"~"}
    case $kind in
        words) __swarmctl_offer $list ;;
        setting) __swarmctl_setting ;;
        node) __swarmctl_names "${home:-$HOME/.local/share/swarmctl}/nodes" / ;;
        profile)
            __swarmctl_offer @@profiles@@
            __swarmctl_names "${home:-$HOME/.config/swarmctl}/profiles" .toml
            __swarmctl_files
            ;;
        file) __swarmctl_files ;;
        directory) __swarmctl_files dirnames ;;
    esac
}

complete -F _swarmctl swarmctl
