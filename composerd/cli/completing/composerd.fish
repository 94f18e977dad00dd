function _composerd_completion
    set -l before ""
    for completion in (env _COMPOSERD_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) \
            COMP_CWORD=(commandline -ct) composerd 2> /dev/null)
        set -l parts (string split -m 1 , -- $completion)
        switch $parts[1]
            case before
                set before $parts[2]
            case dir
                for path in (__fish_complete_directories $parts[2])
                    echo $before$path
                end
            case file
                for path in (__fish_complete_path $parts[2])
                    echo $before$path
                end
            case plain open
                echo $parts[2]
        end
    end
end

complete --no-files --keep-order --command composerd --arguments "(_composerd_completion)"
