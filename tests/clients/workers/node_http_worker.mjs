// A composerd worker with node:http: node node_http_worker.mjs SERVER TYPE FILE
//
// For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import http from "node:http";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

const [server, type, file] = process.argv.slice(2);
// The server may be below a path, as in https://host/path. A location has that path already.
const { origin, pathname } = new URL(server);
const agent = new http.Agent({ keepAlive: true });
const arch = { x64: "x86_64", arm64: "aarch64" }[process.arch] ?? process.arch;

// Send a request, and return the status, the headers and the text of the answer.
function ask(method, path, body, headers) {
  return new Promise((resolve, reject) => {
    const request = http.request(origin + path, { method, headers, agent }, (answer) => {
      answer.setEncoding("utf8");
      let text = "";
      answer.on("data", (chunk) => (text += chunk));
      answer.on("end", () => resolve({ status: answer.statusCode, answered: answer.headers, text }));
      answer.on("error", reject); // also if the answer was cut
    });
    request.setTimeout(40_000, () => request.destroy(new Error("no answer for 40 s")));
    request.on("error", reject);
    if (method === "PUT") {
      // A file is opened for each attempt: what is sent again begins at its first byte.
      pipeline(createReadStream(file), request).catch(reject);
    } else {
      request.end(body);
    }
  });
}

// Send a request until there is a whole answer that is no 5xx. Return its status and its text.
async function send(method, path, body, headers = {}) {
  for (;;) {
    try {
      const { status, answered, text } = await ask(method, path, body, headers);
      if (status < 500 && "x-operation-id" in answered) {
        if (text) JSON.parse(text); // throws an error if the answer was cut
        return { status, text };
      }
      console.error("trying again:", status, text.slice(0, 200));
    } catch (error) {
      console.error("trying again:", error.message);
    }
    await sleep(1000);
  }
}

// Send a value as JSON. What is sent again has the same bytes.
const sendJson = (method, path, value) =>
  send(method, path, JSON.stringify(value), { "Content-Type": "application/json" });

// Return what the server said about a request that it did not accept.
function refusal(text) {
  const { id, reason } = JSON.parse(text);
  return `error ${id}, ${reason}`;
}

// Return true if the job is still this worker's. Each call is a heartbeat.
async function isOurs(location) {
  const { status, text } = await send("GET", location);
  return status === 200 && !JSON.parse(text).canceled;
}

async function work(job) {
  // Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a timer.
  if (!(await isOurs(job.location))) return;

  const digest = createHash("sha256");
  let size = 0;
  await pipeline(createReadStream(file), async (chunks) => {
    for await (const chunk of chunks) {
      digest.update(chunk);
      size += chunk.length;
    }
  });
  const sha256 = digest.digest();
  const upload = await send("PUT", job.artifact_location + "output", undefined, {
    "Content-Length": size, // without it, the stream is sent in chunks
    "Content-Type": "application/octet-stream",
    "Content-Digest": `sha-256=:${sha256.toString("base64")}:`,
  });
  let report;
  if (upload.status === 200) {
    const artifacts = [{ name: "output", size, sha256: sha256.toString("hex") }];
    report = { result: { text: job.args.text }, artifacts };
  } else {
    report = { result: { job_error: { id: 10, reason: `upload: ${refusal(upload.text)}`, details: null } } };
  }

  if (!(await isOurs(job.location))) return;
  const { status, text } = await sendJson("PATCH", job.location, report);
  if (status !== 200) console.error("result refused:", refusal(text));
}

for (;;) {
  // The same id is sent again if there was no answer, so that a job that was on its way is not lost.
  const request = { types: [type], arch, confirm: true, request_id: randomUUID() };
  const { status, text } = await sendJson("POST", pathname.replace(/\/$/, "") + "/api/worker/v1/jobs?wait=20s", request);
  if (status === 201) {
    console.log(text); // JSON.parse rounds integers above 2^53: what must keep them reads the text
    await work(JSON.parse(text));
  } else if (status !== 204 && status !== 409) { // 409: the id is used up
    console.error("request refused:", refusal(text));
    process.exit(1);
  }
}
