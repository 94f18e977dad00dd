#compdef composerd

_composerd_completion() {
    local -a completions opened described response
    local type key descr
    (( $+commands[composerd] )) || return 1

    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
        _COMPOSERD_COMPLETE=zsh_complete composerd 2> /dev/null)}")

    for type key descr in ${response}; do
        case $type in
            plain)
                if [[ $descr == _ ]]; then
                    completions+=("$key")
                else
                    described+=("$key:$descr")
                fi
                ;;
            open) opened+=("$key") ;;
            dir | file)
                [[ $key == _ ]] || compset -P "${(b)key}"
                if [[ $type == dir ]]; then _path_files -/; else _path_files -f; fi
                ;;
        esac
    done

    (( ! $#described )) || _describe -V unsorted described -U
    (( ! $#completions )) || compadd -U -V unsorted -a completions
    (( ! $#opened )) || compadd -U -V unsorted -S '' -a opened
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _composerd_completion "$@"
else
    compdef _composerd_completion composerd
fi
