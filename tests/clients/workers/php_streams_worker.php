<?php
// A composerd worker with PHP's streams: php php_streams_worker.php SERVER TYPE FILE
//
// For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
declare(strict_types=1);

[, $given, $type, $file] = $argv;
// The server may be below a path, as in https://host/path. A location has that path already.
preg_match('~^(\w+://[^/]+)(.*?)/?$~', $given, $parts);
[, $server, $path] = $parts;

// Send a request, and return the status, the headers and the text of the answer.
function ask(string $method, string $path, ?string $body, array $headers): array
{
    global $server, $file;
    // A stream can send only a string, so the file has to fit into the memory. PHP's curl sends it piece by piece.
    $context = stream_context_create(['http' => [
        'method' => $method,
        'header' => $headers,
        'content' => $method === 'PUT' ? file_get_contents($file) : (string) $body,
        'ignore_errors' => true, // without it, the body of a refusal cannot be read
        'follow_location' => 0,
        'timeout' => 40,
    ]]);
    $stream = @fopen($server . $path, 'rb', false, $context);
    if ($stream === false) {
        throw new RuntimeException(error_get_last()['message']);
    }
    $text = stream_get_contents($stream);
    $answered = stream_get_meta_data($stream)['wrapper_data'];
    fclose($stream);
    return [(int) explode(' ', $answered[0])[1], implode("\n", $answered), $text];
}

// Send a request until there is a whole answer that is no 5xx. Return its status and its text.
function send(string $method, string $path, ?string $body = null, array $headers = []): array
{
    for (;; sleep(1)) {
        try {
            [$status, $answered, $text] = ask($method, $path, $body, $headers);
            if ($status < 500 && stripos($answered, "\nX-Operation-Id:") !== false) {
                if ($text !== '') {
                    decode($text); // a stream takes a cut answer for a whole one; this throws an exception
                }
                return [$status, $text];
            }
            fwrite(STDERR, "trying again: $status " . substr($text, 0, 200) . "\n");
        } catch (RuntimeException | JsonException $error) {
            fwrite(STDERR, "trying again: {$error->getMessage()}\n");
        }
    }
}

function decode(string $text): array
{
    // Integers above 2^63 become strings instead of rounded numbers.
    return json_decode($text, true, 512, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
}

// Send a value as JSON. What is sent again has the same bytes.
function sendJson(string $method, string $path, array $value): array
{
    return send($method, $path, json_encode($value, JSON_THROW_ON_ERROR), ['Content-Type: application/json']);
}

// Return what the server said about a request that it did not accept.
function refusal(string $text): string
{
    $error = decode($text);
    return "error {$error['id']}, {$error['reason']}";
}

// Return true if the job is still this worker's. Each call is a heartbeat.
function isOurs(string $location): bool
{
    [$status, $text] = send('GET', $location);
    return $status === 200 && !decode($text)['canceled'];
}

function work(array $job): void
{
    global $file;
    // Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from another process.
    if (!isOurs($job['location'])) {
        return;
    }

    $sha256 = hash_file('sha256', $file);
    [$status, $text] = send('PUT', $job['artifact_location'] . 'output', null, [
        'Content-Type: application/octet-stream',
        'Content-Digest: sha-256=:' . base64_encode(hex2bin($sha256)) . ':',
    ]);
    if ($status === 200) {
        $artifacts = [['name' => 'output', 'size' => filesize($file), 'sha256' => $sha256]];
        $report = ['result' => ['text' => $job['args']['text']], 'artifacts' => $artifacts];
    } else {
        $error = ['id' => 10, 'reason' => 'upload: ' . refusal($text), 'details' => null];
        $report = ['result' => ['job_error' => $error]];
    }

    if (!isOurs($job['location'])) {
        return;
    }
    [$status, $text] = sendJson('PATCH', $job['location'], $report);
    if ($status !== 200) {
        fwrite(STDERR, 'result refused: ' . refusal($text) . "\n");
    }
}

for (;;) {
    clearstatcache();
    // The same id is sent again if there was no answer, so that a job that was on its way is not lost.
    $id = trim(file_get_contents('/proc/sys/kernel/random/uuid'));
    $request = ['types' => [$type], 'arch' => php_uname('m'), 'confirm' => true, 'request_id' => $id];
    [$status, $text] = sendJson('POST', $path . '/api/worker/v1/jobs?wait=20s', $request);
    if ($status === 201) {
        echo $text, "\n";
        work(decode($text));
    } elseif ($status !== 204 && $status !== 409) { // 409: the id is used up
        exit('request refused: ' . refusal($text) . "\n");
    }
}
