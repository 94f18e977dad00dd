vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "8700";
}

# Everything is piped: only so does Varnish tell the server that a client has closed its connection.
sub vcl_recv {
    return (pipe);
}

sub vcl_pipe {
    set bereq.http.Connection = "close";
}
