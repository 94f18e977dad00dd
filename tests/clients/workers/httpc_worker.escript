#!/usr/bin/env escript
%% A composerd worker with Erlang's httpc: escript httpc_worker.escript SERVER TYPE FILE
%%
%% For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
%% Erlang has JSON of its own only since OTP 27, and this program uses no library, so it takes fields out of the text.

-mode(compile).

main([Server, Type, File]) ->
    {ok, _} = application:ensure_all_started(inets),
    ok = io:setopts([{encoding, unicode}]),
    %% The server may be below a path, as in https://host/path. A location has that path already.
    {match, [Host, Path]} = re:run(Server, "^(\\w+://[^/]+)(.*?)/?$", [{capture, all_but_first, list}]),
    put(host, Host),
    put(path, Path),
    loop(Type, File).

loop(Type, File) ->
    %% The same id is sent again if there was no answer, so that a job that was on its way is not lost.
    Request = io_lib:format("{\"types\": [\"~s\"], \"arch\": \"~s\", \"confirm\": true, \"request_id\": \"~s\"}",
                            [Type, string:trim(os:cmd("uname -m")), uuid()]),
    case send_json(post, get(path) ++ "/api/worker/v1/jobs?wait=20s", Request) of
        {201, Job} ->
            io:put_chars([Job, "\n"]),
            work(Job, File);
        {204, _} ->
            ok;
        {409, _} -> % the id is used up
            ok;
        {_, Text} ->
            io:format(standard_error, "request refused: ~s~n", [refusal(Text)]),
            halt(1)
    end,
    loop(Type, File).

work(Job, File) ->
    Location = field("location", Job),
    %% Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a process.
    case is_ours(Location) andalso upload(Job, File) of
        false ->
            ok;
        {200, Artifacts} ->
            [_, Args] = binary:split(Job, <<"\"args\":">>),
            finish(Location, ["{\"result\": {\"text\": \"", field("text", Args), "\"}, \"artifacts\": ", Artifacts, "}"]);
        {_, Refusal} ->
            Error = ["{\"id\": 10, \"reason\": \"upload: ", Refusal, "\", \"details\": null}"],
            finish(Location, ["{\"result\": {\"job_error\": ", Error, "}}"])
    end.

finish(Location, Report) ->
    case is_ours(Location) andalso send_json(patch, Location, Report) of
        {Status, Text} when Status =/= 200 -> io:format(standard_error, "result refused: ~s~n", [refusal(Text)]);
        _ -> ok
    end.

%% Upload the file. Return 200 and the list of artifacts, or another status and what the server said.
upload(Job, File) ->
    Size = filelib:file_size(File),
    Read = fun(State) -> read(File, State) end,
    Digest = crypto:hash_final(hash(Read, closed, crypto:hash_init(sha256))),
    Headers = [{"Content-Length", integer_to_list(Size)}, % without it, httpc sends chunks
               {"Content-Digest", "sha-256=:" ++ base64:encode_to_string(Digest) ++ ":"}],
    %% The file is opened for each attempt: what is sent again begins at its first byte.
    Path = binary_to_list(field("artifact_location", Job)) ++ "output",
    case send(put, Path, "application/octet-stream", {Read, closed}, Headers) of
        {200, _} ->
            Hex = [io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= Digest],
            {200, io_lib:format("[{\"name\": \"output\", \"size\": ~b, \"sha256\": \"~s\"}]", [Size, Hex])};
        {Status, Text} ->
            {Status, refusal(Text)}
    end.

read(File, closed) ->
    {ok, Opened} = file:open(File, [read, binary, raw]),
    read(File, Opened);
read(_, Opened) ->
    case file:read(Opened, 65536) of
        {ok, Data} -> {ok, Data, Opened};
        eof -> file:close(Opened), eof
    end.

hash(Read, State, Hash) ->
    case Read(State) of
        {ok, Data, Next} -> hash(Read, Next, crypto:hash_update(Hash, Data));
        eof -> Hash
    end.

%% Return true if the job is still this worker's. Each call is a heartbeat.
is_ours(Location) ->
    {Status, Text} = send(get, Location, none, none, []),
    Status =:= 200 andalso re:run(Text, "\"canceled\": *false") =/= nomatch.

%% Send JSON. What is sent again has the same bytes.
send_json(Method, Path, Json) ->
    send(Method, Path, "application/json", iolist_to_binary(Json), []).

%% Send a request until there is a whole answer that is no 5xx. Return its status and its text.
%% httpc repeats a request that got 503 with Retry-After without end, whatever its timeout is, so a process that can be
%% killed sends it.
send(Method, Path, Type, Body, Headers) ->
    Url = get(host) ++ binary_to_list(iolist_to_binary(Path)),
    Request = case Method of
        get -> {Url, Headers};
        _ -> {Url, Headers, Type, Body}
    end,
    Timeout = case Method of
        put -> infinity;
        _ -> 40000
    end,
    Options = [{timeout, Timeout}, {connect_timeout, 5000}, {autoredirect, false}],
    {Pid, Monitor} = spawn_monitor(fun() -> exit(httpc:request(Method, Request, Options, [{body_format, binary}])) end),
    Answer = receive
        {'DOWN', Monitor, process, Pid, Told} -> Told
    after 60000 ->
        exit(Pid, kill),
        demonitor(Monitor, [flush]),
        timeout
    end,
    case Answer of
        {ok, {{_, Status, _}, Answered, Text}} when Status < 500 ->
            case lists:keymember("x-operation-id", 1, Answered) of
                true -> {Status, Text};
                false -> again(Method, Path, Type, Body, Headers, Status)
            end;
        _ ->
            again(Method, Path, Type, Body, Headers, Answer)
    end.

again(Method, Path, Type, Body, Headers, Reason) ->
    io:format(standard_error, "trying again: ~0p~n", [Reason]),
    timer:sleep(1000),
    send(Method, Path, Type, Body, Headers).

%% Return a string of JSON as it is there, without the quotation marks.
%% The server's own fields come before the args, which may contain anything.
field(Name, Text) ->
    {match, [Value]} = re:run(Text, "\"" ++ Name ++ "\": *\"((?:[^\"\\\\]|\\\\.)*)\"", [{capture, all_but_first, binary}]),
    Value.

%% Return what the server said about a request that it did not accept.
refusal(Text) ->
    ["error ", field("id", Text), ", ", field("reason", Text)].

uuid() ->
    {ok, Text} = file:read_file("/proc/sys/kernel/random/uuid"),
    string:trim(Text).
