#!/bin/sh
# A composerd worker with wget: sh wget_worker.sh SERVER TYPE FILE
#
# For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
set -u
server=${1%/} type=$2 file=$3

# The server may be below a path, as in https://host/path. A location has that path already.
host=${server#*://}
path=${host#"${host%%/*}"}
server=${server%"$path"}

umask 077
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 143' TERM INT

# Send a request until there is a whole answer that is no 5xx. The answer is in $scratch/answer; print its status.
# wget repeats a POST up to 20 times unless it is told not to, and hides what the server says about a refusal.
# It takes an answer of which headers are missing for a whole one.
# The URL has the token, and every local user can read the arguments of a command, so wget reads it from a pipe.
send() {
    method=$1 to=$2 && shift 2
    while :; do
        printf '%s\n' "$server$to" | wget -i - -q -S -O "$scratch/answer" --tries=1 --max-redirect=0 --connect-timeout=5 --read-timeout=40 \
            --content-on-error --method="$method" "$@" 2> "$scratch/head"
        status=$(sed -n 's/^ *HTTP\/1.1 \([2-4][0-9][0-9]\).*/\1/p' "$scratch/head" | tail -n 1)
        length=$(sed -n 's/^ *Content-Length: *\([0-9]*\).*/\1/p' "$scratch/head")
        [ -n "$status" ] && [ "${length:-0}" -eq "$(wc -c < "$scratch/answer")" ] &&
            grep -qi '^ *X-Operation-Id:' "$scratch/head" && echo "$status" && return
        echo "trying again: ${status:-no whole answer}" >&2
        sleep 1
    done
}

# Send JSON. What is sent again has the same bytes. Without the header, wget says that it is a form.
send_json() { send "$1" "$2" --header='Content-Type: application/json' --body-data="$3"; }

# Print a string of the answer in a file, as it is in JSON, without the quotation marks.
# The server's own fields come before the args, which may contain anything.
field() { sed -e 's/"args":.*//' -e 's/.*"'"$1"'": *"\([^"]*\)".*/\1/' "$2"; }

# Print what the server said about a request that it did not accept.
refusal() { echo "error $(field id "$scratch/answer"), $(field reason "$scratch/answer")"; }

# Tell whether the job is still this worker's. Each call is a heartbeat.
is_ours() { [ "$(send GET "$1")" = 200 ] && grep -q '"canceled": *false' "$scratch/answer"; }

work() {
    location=$(field location "$scratch/job")
    # Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from another process.
    is_ours "$location" || return

    sha256=$(sha256sum < "$file" | cut -d ' ' -f 1)
    size=$(wc -c < "$file")
    digest=$(openssl dgst -sha256 -binary < "$file" | openssl base64 -A)
    status=$(send PUT "$(field artifact_location "$scratch/job")output" --body-file="$file" \
        --header='Content-Type: application/octet-stream' --header="Content-Digest: sha-256=:$digest:")
    if [ "$status" = 200 ]; then
        # The string is passed on as it is in JSON, with its quotation marks.
        text=$(sed 's/.*"args":.*"text": *\("\([^"\\]\|\\.\)*"\).*/\1/' "$scratch/job")
        report='{"result": {"text": '$text'}, "artifacts": [{"name": "output", "size": '$size', "sha256": "'$sha256'"}]}'
    else
        report='{"result": {"job_error": {"id": 10, "reason": "upload: '$(refusal)'", "details": null}}}'
    fi

    is_ours "$location" || return
    [ "$(send_json PATCH "$location" "$report")" = 200 ] || echo "result refused: $(refusal)" >&2
}

while :; do
    # The same id is sent again if there was no answer, so that a job that was on its way is not lost.
    id=$(cat /proc/sys/kernel/random/uuid)
    request='{"types": ["'$type'"], "arch": "'$(uname -m)'", "confirm": true, "request_id": "'$id'"}'
    status=$(send_json POST "$path/api/worker/v1/jobs?wait=20s" "$request")
    case $status in
    201)
        mv "$scratch/answer" "$scratch/job"
        cat "$scratch/job" && echo
        work
        ;;
    204 | 409) ;; # no job; the id is used up
    *)
        echo "request refused: $(refusal)" >&2
        exit 1
        ;;
    esac
done
