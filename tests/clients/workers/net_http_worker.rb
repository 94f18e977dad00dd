# A composerd worker with Net::HTTP: ruby net_http_worker.rb SERVER TYPE FILE
#
# For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
require "digest"
require "etc"
require "json"
require "net/http"
require "securerandom"

SERVER, TYPE, FILE = ARGV
# The server may be below a path, as in https://host/path. A location has that path already.
PATH = URI(SERVER).path.chomp("/")
$stdout.sync = true

# Return a new connection. What Net::HTTP sends again by itself is the rest of a stream, so it may not.
def connect
  uri = URI(SERVER)
  http = Net::HTTP.new(uri.host, uri.port, nil)
  http.use_ssl = uri.scheme == "https"
  http.open_timeout = 5
  http.read_timeout = 40
  http.max_retries = 0
  http.keep_alive_timeout = 30
  http.start
end

# Send a request until there is a whole answer that is no 5xx. Return its status and its text.
def send_request(kind, path, body = nil, headers = {})
  loop do
    begin
      $http ||= connect
      request = kind.new(path, headers)
      # A file is opened for each attempt: what is sent again begins at its first byte.
      kind == Net::HTTP::Put ? request.body_stream = File.open(FILE, "rb") : request.body = body
      answer = $http.request(request)
      text = (answer.body || "").dup.force_encoding("UTF-8")
      if answer.code.to_i < 500 && answer["X-Operation-Id"]
        JSON.parse(text) unless text.empty? # Net::HTTP takes a cut answer for a whole one; this raises an error
        return answer.code.to_i, text
      end
      warn "trying again: #{answer.code} #{text[0, 200]}"
    rescue SystemCallError, IOError, SocketError, Timeout::Error, Net::ProtocolError, JSON::ParserError => e
      warn "trying again: #{e.message}"
      $http&.finish rescue nil
      $http = nil
    end
    sleep 1
  end
end

# Send a value as JSON. What is sent again has the same bytes.
def send_json(kind, path, value)
  send_request(kind, path, JSON.generate(value), "Content-Type" => "application/json")
end

# Return what the server said about a request that it did not accept.
def refusal(text)
  error = JSON.parse(text)
  "error #{error["id"]}, #{error["reason"]}"
end

# Return true if the job is still this worker's. Each call is a heartbeat.
def ours?(location)
  status, text = send_request(Net::HTTP::Get, location)
  status == 200 && !JSON.parse(text)["canceled"]
end

def work(job)
  # Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a thread.
  return unless ours?(job["location"])

  digest = Digest::SHA256.file(FILE)
  size = File.size(FILE)
  status, text = send_request(
    Net::HTTP::Put, "#{job["artifact_location"]}output", nil,
    "Content-Length" => size.to_s,
    "Content-Type" => "application/octet-stream",
    "Content-Digest" => "sha-256=:#{digest.base64digest}:"
  )
  report =
    if status == 200
      artifacts = [{ name: "output", size: size, sha256: digest.hexdigest }]
      { result: { text: job["args"]["text"] }, artifacts: artifacts }
    else
      { result: { job_error: { id: 10, reason: "upload: #{refusal(text)}", details: nil } } }
    end

  return unless ours?(job["location"])
  status, text = send_json(Net::HTTP::Patch, job["location"], report)
  warn "result refused: #{refusal(text)}" if status != 200
end

loop do
  # The same id is sent again if there was no answer, so that a job that was on its way is not lost.
  request = { types: [TYPE], arch: Etc.uname[:machine], confirm: true, request_id: SecureRandom.uuid }
  status, text = send_json(Net::HTTP::Post, "#{PATH}/api/worker/v1/jobs?wait=20s", request)
  if status == 201
    puts text
    work(JSON.parse(text))
  elsif ![204, 409].include?(status) # 409: the id is used up
    abort "request refused: #{refusal(text)}"
  end
end
