#!/bin/sh
# A composerd worker with curl: sh curl_worker.sh SERVER TYPE FILE
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
# The URL has the token, and every local user can read the arguments of a command, so curl reads it from a pipe.
send() {
    method=$1 to=$2 && shift 2
    while :; do
        status=$(printf 'url = "%s"\n' "$server$to" | curl -q -K - -X "$method" -gsS --connect-timeout 5 \
            --speed-limit 1 --speed-time 40 -D "$scratch/head" -o "$scratch/answer" -w '%{http_code}' "$@") &&
            [ "$status" -lt 500 ] && grep -qi '^X-Operation-Id:' "$scratch/head" && echo "$status" && return
        echo "trying again: $status" >&2
        sleep 1
    done
}

# Send JSON. What is sent again has the same bytes. -d alone would say that it is a form.
send_json() { send "$1" "$2" -H 'Content-Type: application/json' --data-binary "$3"; }

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
    # -T sends the length of a file, but sends its standard input in chunks.
    status=$(send PUT "$(field artifact_location "$scratch/job")output" -T "$file" \
        -H 'Content-Type: application/octet-stream' -H "Content-Digest: sha-256=:$digest:")
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
