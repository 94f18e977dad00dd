#!/usr/bin/env bash
# swagger-typescript-api 13.13.0: an upload of application/octet-stream sends "{}" instead of the file.
#
# The generator knows five content types, and application/octet-stream is none of them. The method for such an upload
# takes a File, passes it to JSON.stringify, and so sends the two bytes "{}", as text/plain. A server that does not look
# at the content type stores them, and neither side has an error. No option names another content type: the body has to
# be sent with `fetch` itself.
#
# Output seen: "a file of 5 bytes was sent as {} with the type text/plain;charset=UTF-8"
#
# Needs Node 20 and npm.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
echo '{"type": "module"}' > package.json
npm install --silent --ignore-scripts --no-audit --no-fund swagger-typescript-api@13.13.0 typescript@5.9.3

cat > upload.json <<'JSON'
{"openapi": "3.0.3", "info": {"title": "upload", "version": "1"},
 "paths": {"/file": {"put": {"operationId": "upload", "responses": {"200": {"description": "stored"}},
   "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}}}}
JSON
npx swagger-typescript-api generate --path upload.json --output . --name api.ts > log 2>&1
npx tsc --module nodenext --target es2022 --skipLibCheck api.ts > log 2>&1 || true

cat > upload.js <<'JS'
import { createServer } from "node:http";
import { Api } from "./api.js";

const server = createServer(async (request, response) => {
  let sent = "";
  for await (const part of request) sent += part;
  response.end();
  server.close();
  console.log(`a file of 5 bytes was sent as ${sent} with the type ${request.headers["content-type"]}`);
  process.exitCode = sent === "{}" ? 0 : 1;
});
server.listen(0, "127.0.0.1", async () => {
  const api = new Api({ baseUrl: `http://127.0.0.1:${server.address().port}` });
  await api.file.upload(new Blob(["hello"]));
});
JS
node upload.js
