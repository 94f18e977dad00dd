// A job from end to end, with openapi-fetch and the types that openapi-typescript has generated.
import { createHash, randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { deepStrictEqual, ok, strictEqual } from "node:assert";
import createClient from "openapi-fetch";
import type { components as Components, paths as Composer } from "./composer.js";
import type { paths as Worker } from "./worker.js";

const [url, file, out, odd] = process.argv.slice(2) as [string, string, string, string];
const name = "grüße 1.bin";
const headers = { Authorization: `Bearer ${process.env["TOKEN"]}` };
const composer = createClient<Composer>({ baseUrl: `${url}/api/composer/v1`, headers });
const worker = createClient<Worker>({ baseUrl: `${url}/api/worker/v1`, headers });

async function take(type: string) {
  const { data, response } = await worker.POST("/jobs", {
    params: { query: { wait: "20s" } },
    body: { types: [type], arch: "x86_64", confirm: true },
  });
  ok(response.status === 201 && data !== undefined, String(response.status));
  return data;
}

async function finish(token: string, result: unknown) {
  const { data, error } = await worker.PATCH("/jobs/{token}", { params: { path: { token } }, body: { result } });
  ok(data !== undefined, JSON.stringify(error));
}

const raw = await take("raw");
const args = raw.args as Record<string, unknown>;
strictEqual(args["$ref"], JSON.parse(odd)["$ref"]);
await finish(raw.token!, args["nested"]);

// JSON.parse makes floats of large integers: the text is sent as it is, and read as text where it has to be exact.
const { data: submitted } = await composer.POST("/jobs", {
  body: { type: "own", args: null },
  bodySerializer: () => `{"type": "own", "args": ${odd}}`,
  headers: { "Content-Type": "application/json" },
});
ok(submitted !== undefined);
const job = await take("own");
const token = job.token!;
strictEqual(job.id, submitted.id);
deepStrictEqual(job.args, JSON.parse(odd));
const digest = `sha-256=:${createHash("sha256").update(readFileSync(file)).digest("base64")}:`;
const upload = await worker.PUT("/jobs/{token}/artifacts/{name}", {
  params: { path: { token, name }, header: { "Content-Digest": digest } },
  body: new Blob([readFileSync(file)]) as unknown as string,
  bodySerializer: (body) => body,
  headers: { "Content-Type": "application/octet-stream" },
});
strictEqual(upload.response.status, 200, JSON.stringify(upload.error));
const progress = await worker.PATCH("/jobs/{token}", { params: { path: { token } }, body: { partial: { done: 1 } } });
ok(progress.data !== undefined);
const status = await worker.GET("/jobs/{token}", { params: { path: { token } } });
strictEqual(status.data?.canceled, false);
await finish(token, job.args);

const path = { id: submitted.id };
const { data: ended } = await composer.GET("/jobs/{id}", { params: { path, query: { wait: "20s" } } });
const finished: Components["schemas"]["JobState"] = "finished";
strictEqual(ended?.state, finished);
strictEqual(ended.not_before, null);
const exact = await composer.GET("/jobs/{id}/args", { params: { path }, parseAs: "text" });
strictEqual(exact.data, odd);
const { data: listed } = await composer.GET("/jobs/{id}/artifacts", { params: { path } });
deepStrictEqual(listed?.items.map((one) => one.name), [name]);
const download = await composer.GET("/jobs/{id}/artifacts/{name}", {
  params: { path: { ...path, name } },
  parseAs: "arrayBuffer",
});
ok(download.data !== undefined);
writeFileSync(out, Buffer.from(download.data));

const refused = await worker.GET("/jobs/{token}", { params: { path: { token: randomUUID() } } });
console.log(JSON.stringify({ job: submitted.id, refused: refused.error?.reason }));
