// A composerd worker with java.net.http.HttpClient: java HttpClientWorker.java SERVER TYPE FILE
//
// For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
// Java has no JSON of its own, and this program uses no library, so it takes fields out of the text.

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.Base64;
import java.util.HexFormat;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class HttpClientWorker {
    static String server, path, type;
    static Path file;
    static final HttpClient client = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(5)).build();
    static final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    /** Send a request until there is a whole answer that is no 5xx. Return the answer. */
    static HttpResponse<String> send(String method, String path, String body, String... headers) throws Exception {
        while (true) {
            try {
                // A file is read from its first byte for each attempt, and sent with its length.
                boolean upload = method.equals("PUT");
                BodyPublisher data = upload ? BodyPublishers.ofFile(file)
                        : body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
                HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(server + path)).method(method, data);
                if (headers.length > 0) request.headers(headers);
                if (!upload) request.timeout(Duration.ofSeconds(40));
                HttpResponse<String> answer = client.send(request.build(), BodyHandlers.ofString());
                if (answer.statusCode() < 500 && answer.headers().firstValue("X-Operation-Id").isPresent()) {
                    return answer;
                }
                System.err.println("trying again: " + answer.statusCode() + " " + answer.body());
            } catch (IOException error) { // also if the answer was cut
                System.err.println("trying again: " + error);
            }
            Thread.sleep(1000);
        }
    }

    /** Send JSON. What is sent again has the same bytes. */
    static HttpResponse<String> sendJson(String method, String path, String json) throws Exception {
        return send(method, path, json, "Content-Type", "application/json");
    }

    /** Return a string of JSON as it is there, without the quotation marks. */
    static String field(String json, String name) {
        Matcher found = Pattern.compile("\"" + name + "\": *\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
        if (!found.find()) throw new IllegalStateException("the answer has no " + name);
        return found.group(1);
    }

    /** Return what the server said about a request that it did not accept. */
    static String refusal(HttpResponse<String> answer) {
        return "error " + field(answer.body(), "id") + ", " + field(answer.body(), "reason");
    }

    /** Return true if the job is still this worker's. Each call is a heartbeat. */
    static boolean isOurs(String location) throws Exception {
        HttpResponse<String> answer = send("GET", location, null);
        return answer.statusCode() == 200 && answer.body().matches("(?s).*\"canceled\": *false.*");
    }

    static void work(String job) throws Exception {
        // The server's own fields come before the args, which may contain anything.
        String location = field(job, "location");
        String args = job.substring(job.indexOf("\"args\":"));
        // Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a thread.
        if (!isOurs(location)) return;

        MessageDigest sha256 = MessageDigest.getInstance("SHA-256");
        long size;
        try (var stream = new DigestInputStream(Files.newInputStream(file), sha256)) {
            size = stream.transferTo(OutputStream.nullOutputStream());
        }
        byte[] digest = sha256.digest();
        HttpResponse<String> answer = send("PUT", field(job, "artifact_location") + "output", null,
                "Content-Type", "application/octet-stream",
                "Content-Digest", "sha-256=:" + Base64.getEncoder().encodeToString(digest) + ":");
        String report;
        if (answer.statusCode() == 200) {
            report = """
                    {"result": {"text": "%s"}, "artifacts": [{"name": "output", "size": %d, "sha256": "%s"}]}"""
                    .formatted(field(args, "text"), size, HexFormat.of().formatHex(digest));
        } else {
            report = """
                    {"result": {"job_error": {"id": 10, "reason": "upload: %s", "details": null}}}"""
                    .formatted(refusal(answer));
        }

        if (!isOurs(location)) return;
        answer = sendJson("PATCH", location, report);
        if (answer.statusCode() != 200) System.err.println("result refused: " + refusal(answer));
    }

    public static void main(String[] arguments) throws Exception {
        // The server may be below a path, as in https://host/path. A location has that path already.
        URI given = URI.create(arguments[0]);
        server = given.getScheme() + "://" + given.getRawAuthority();
        path = given.getRawPath().replaceAll("/$", "");
        type = arguments[1];
        file = Path.of(arguments[2]);
        String arch = System.getProperty("os.arch").replace("amd64", "x86_64");
        while (true) {
            // The same id is sent again if there was no answer, so that a job that was on its way is not lost.
            String request = """
                    {"types": ["%s"], "arch": "%s", "confirm": true, "request_id": "%s"}"""
                    .formatted(type, arch, UUID.randomUUID());
            HttpResponse<String> answer = sendJson("POST", path + "/api/worker/v1/jobs?wait=20s", request);
            if (answer.statusCode() == 201) {
                out.println(answer.body());
                work(answer.body());
            } else if (answer.statusCode() != 204 && answer.statusCode() != 409) { // 409: the id is used up
                System.err.println("request refused: " + refusal(answer));
                System.exit(1);
            }
        }
    }
}
