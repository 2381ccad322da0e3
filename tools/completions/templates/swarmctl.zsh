#compdef swarmctl
# Completion of swarmctl for zsh.
# @@marker@@
#
# This script starts no process and never evaluates file names: names come from globbing.

# Set REPLY to the directory of $1 (profiles or nodes): under SWARMCTL_HOME if it is set, otherwise under $2.
_swarmctl_directory() {
  local home=${SWARMCTL_HOME-}
  [[ $home == \~ || $home == \~/* ]] && home=$HOME${home#\~}
  REPLY=${home:-$HOME/$2}/$1
}

_swarmctl_nodes() {
  local REPLY expl
  _swarmctl_directory nodes .local/share/swarmctl
  local -a names=($REPLY/*(N-/:t))
  names=(${names:#*[[:cntrl:]]*})
  _wanted nodes expl node compadd -a names
}

_swarmctl_profile_names() {
  local REPLY expl
  _swarmctl_directory profiles .config/swarmctl
  local -aU names=(@@profiles@@ $REPLY/*.toml(N:t:r))
  names=(${names:#*[[:cntrl:]]*})
  _wanted profiles expl profile compadd -a names
}

_swarmctl_profiles() {
  _swarmctl_profile_names || _files -g '*.toml'
}

_swarmctl_settings() {
  local expl key=${PREFIX%%\=*}
  local -a list
  if ! compset -P 1 '*='; then
    list=(
@@settings@@
    )
    _describe -t settings setting list -S = -q
    return
  fi
  case $key in
@@values@@
    *) _message value; return 1 ;;
  esac
  _wanted values expl value compadd -a list
}

@@functions@@

# When zsh loads this file from fpath, it is the body of _swarmctl, and this is its first call.
if [[ ${funcstack[1]-} == _swarmctl ]]; then
  _swarmctl "$@"
elif (( $+functions[compdef] )); then
  compdef _swarmctl swarmctl
fi
