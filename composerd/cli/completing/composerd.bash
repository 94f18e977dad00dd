_composerd_completion() {
    local IFS=$'\n' response completion type value path before=

    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" COMP_WORD="$2" \
        COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" _COMPOSERD_COMPLETE=bash_complete "$1" 2> /dev/null)

    for completion in $response; do
        IFS=, read -r type value <<< "$completion"
        case $type in
            before) before=$value ;;
            dir | file)
                if [[ -z $before ]]; then
                    [[ $type == dir ]] && compopt -o dirnames || compopt -o default
                    continue
                fi
                for path in $(compgen -"${type:0:1}" -- "$value"); do
                    printf -v value %q "$path"
                    [[ ! -d $path ]] || { value+=/; compopt -o nospace; }
                    COMPREPLY+=("$before$value")
                done
                ;;
            open) compopt -o nospace; COMPREPLY+=("$value") ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}

complete -o nosort -F _composerd_completion composerd
