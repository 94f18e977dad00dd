// A composerd worker with HttpURLConnection: java HttpUrlConnectionWorker.java SERVER TYPE FILE
//
// For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
// Java has no JSON of its own, and this program uses no library, so it takes fields out of the text.

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.HexFormat;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class HttpUrlConnectionWorker {
    static String server, path, type;
    static Path file;
    static final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    /** The status of an answer, and its text. */
    record Answer(int statusCode, String body) {}

    /** Send a request, and return the answer. Throw an exception if there is no whole one. */
    static Answer ask(String method, String path, String body, String... headers) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) URI.create(server + path).toURL().openConnection();
        connection.setRequestMethod(method); // refuses PATCH
        connection.setInstanceFollowRedirects(false);
        connection.setConnectTimeout(5_000);
        connection.setReadTimeout(40_000);
        for (int i = 0; i < headers.length; i += 2) connection.setRequestProperty(headers[i], headers[i + 1]);
        if (method.equals("PUT")) {
            // With a length the file is not kept in memory, and it is not sent again without its first bytes.
            connection.setDoOutput(true);
            connection.setFixedLengthStreamingMode(Files.size(file));
            try (OutputStream data = connection.getOutputStream()) {
                Files.copy(file, data);
            } catch (IOException error) {
                if (connection.getErrorStream() == null) throw error; // else the server has refused the upload
            }
        } else if (body != null) {
            connection.setDoOutput(true);
            try (OutputStream data = connection.getOutputStream()) {
                data.write(body.getBytes(StandardCharsets.UTF_8));
            }
        }
        int status = connection.getResponseCode();
        InputStream stream = status < 400 ? connection.getInputStream() : connection.getErrorStream();
        byte[] text = stream == null ? new byte[0] : stream.readAllBytes();
        // A cut answer is taken for a whole one, so the length is checked here.
        if (connection.getHeaderField("X-Operation-Id") == null || text.length < connection.getContentLength()) {
            throw new IOException("no whole answer of composerd: " + status);
        }
        return new Answer(status, new String(text, StandardCharsets.UTF_8));
    }

    /** Send a request until there is a whole answer that is no 5xx. Return the answer. */
    static Answer send(String method, String path, String body, String... headers) throws InterruptedException {
        while (true) {
            try {
                Answer answer = ask(method, path, body, headers);
                if (answer.statusCode() < 500) return answer;
                System.err.println("trying again: " + answer);
            } catch (IOException error) {
                System.err.println("trying again: " + error);
            }
            Thread.sleep(1000);
        }
    }

    /** Send JSON. What is sent again has the same bytes. */
    static Answer sendJson(String method, String path, String json) throws Exception {
        return send(method, path, json, "Content-Type", "application/json");
    }

    /** Return a string of JSON as it is there, without the quotation marks. */
    static String field(String json, String name) {
        Matcher found = Pattern.compile("\"" + name + "\": *\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
        if (!found.find()) throw new IllegalStateException("the answer has no " + name);
        return found.group(1);
    }

    /** Return what the server said about a request that it did not accept. */
    static String refusal(Answer answer) {
        return "error " + field(answer.body(), "id") + ", " + field(answer.body(), "reason");
    }

    /** Return true if the job is still this worker's. Each call is a heartbeat. */
    static boolean isOurs(String location) throws Exception {
        Answer answer = send("GET", location, null);
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
        Answer answer = send("PUT", field(job, "artifact_location") + "output", null,
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
        // HttpURLConnection has no PATCH. POST means the same to composerd, and to no other server of this API.
        answer = sendJson("POST", location, report);
        if (answer.statusCode() != 200) System.err.println("result refused: " + refusal(answer));
    }

    public static void main(String[] arguments) throws Exception {
        System.setProperty("sun.net.http.retryPost", "false"); // else a POST without an answer is sent again silently
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
            Answer answer = sendJson("POST", path + "/api/worker/v1/jobs?wait=20s", request);
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
