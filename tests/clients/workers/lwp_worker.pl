# A composerd worker with LWP: perl lwp_worker.pl SERVER TYPE FILE
#
# For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
use strict;
use warnings;
use Digest::SHA;
use HTTP::Request;
use JSON::PP;
use LWP::UserAgent;
use POSIX ();

my ($given, $type, $file) = @ARGV;
# The server may be below a path, as in https://host/path. A location has that path already.
my ($server, $path) = $given =~ m{^(\w+://[^/]+)(.*?)/?$};
my $arch = (POSIX::uname())[4];
my $json = JSON::PP->new->utf8->canonical;
my $http = LWP::UserAgent->new(timeout => 40, keep_alive => 1, max_redirect => 0);
$| = 1;

# Return a random UUID.
sub uuid {
    open my $random, '<', '/proc/sys/kernel/random/uuid' or die "no UUID: $!";
    chomp(my $uuid = <$random>);
    return $uuid;
}

# Send a request until there is a whole answer that is no 5xx. Return its status and its text.
sub ask {
    my ($method, $path, $body, @headers) = @_;
    while (1) {
        if ($method eq 'PUT') {
            # A file is opened for each attempt: what is sent again begins at its first byte.
            open my $data, '<:raw', $file or die "$file: $!";
            $body = sub { read $data, my $chunk, 1 << 16; $chunk };
        }
        my $answer = $http->request(HTTP::Request->new($method, $server . $path, \@headers, $body));
        my $text = $answer->content;
        # LWP takes a cut answer for a whole one. It is no JSON.
        my $whole = !length $text || eval { $json->decode($text); 1 };
        return ($answer->code, $text) if $answer->code < 500 && defined $answer->header('X-Operation-Id') && $whole;
        # A failed connection is a 500 that LWP makes up.
        print STDERR 'trying again: ', $answer->status_line, "\n";
        sleep 1;
    }
}

# Send a value as JSON. What is sent again has the same bytes.
sub ask_json {
    my ($method, $path, $value) = @_;
    return ask($method, $path, $json->encode($value), 'Content-Type' => 'application/json');
}

# Return what the server said about a request that it did not accept.
sub refusal {
    my $error = $json->decode($_[0]);
    return "error $error->{id}, $error->{reason}";
}

# Return true if the job is still this worker's. Each call is a heartbeat.
sub is_ours {
    my ($status, $text) = ask('GET', $_[0]);
    return $status == 200 && !$json->decode($text)->{canceled};
}

sub work {
    my ($job) = @_;
    # Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from another process.
    return unless is_ours($job->{location});

    my $digest = Digest::SHA->new(256)->addfile($file, 'b');
    my $size = -s $file;
    my $base64 = $digest->clone->b64digest;
    $base64 .= '=' while length($base64) % 4;
    my ($status, $text) = ask(
        'PUT', "$job->{artifact_location}output", undef,
        'Content-Length' => $size,
        'Content-Type' => 'application/octet-stream',
        'Content-Digest' => "sha-256=:$base64:",
    );
    my $report;
    if ($status == 200) {
        my @artifacts = ({ name => 'output', size => $size, sha256 => $digest->hexdigest });
        $report = { result => { text => $job->{args}{text} }, artifacts => \@artifacts };
    } else {
        $report = { result => { job_error => { id => 10, reason => 'upload: ' . refusal($text), details => undef } } };
    }

    return unless is_ours($job->{location});
    ($status, $text) = ask_json('PATCH', $job->{location}, $report);
    print STDERR 'result refused: ', refusal($text), "\n" if $status != 200;
}

while (1) {
    # The same id is sent again if there was no answer, so that a job that was on its way is not lost.
    my $request = { types => [$type], arch => $arch, confirm => JSON::PP::true, request_id => uuid() };
    my ($status, $text) = ask_json('POST', "$path/api/worker/v1/jobs?wait=20s", $request);
    if ($status == 201) {
        print "$text\n";
        work($json->decode($text));
    } elsif ($status != 204 && $status != 409) { # 409: the id is used up
        die 'request refused: ', refusal($text), "\n";
    }
}
