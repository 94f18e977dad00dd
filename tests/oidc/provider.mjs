// An OpenID provider for the tests: oidc-provider with clients, keys and a clock that the tests control.
//
// The first argument is its configuration as JSON. It reads orders from stdin, one JSON object a line, and answers each
// with one line.
import { webcrypto } from 'node:crypto';
import http from 'node:http';
import { createInterface } from 'node:readline';

// Node 18, which some distributions have, lacks these.
globalThis.crypto ??= webcrypto;
URL.parse ??= (text, base) => { try { return new URL(text, base); } catch { return null; } };

const { exportJWK, generateKeyPair } = await import('jose');
const { Provider } = await import('oidc-provider');

const { audience, algorithm, clients, lifetime } = JSON.parse(process.argv[2]);
const settings = { lifetime, rotates: false };
const storage = new Map();
const requests = {};
let keys = [];
let generation = 0;
let offset = 0;
let port = 0;
let current = null;

// What the provider says of its defaults is not an answer to an order.
console.log = console.info = console.warn = console.error;

const now = Date.now;
Date.now = () => now() + offset * 1000;

class Adapter {
  constructor(model) { this.model = model; }
  async upsert(id, payload) { storage.set(`${this.model} ${id}`, payload); }
  async find(id) { return storage.get(`${this.model} ${id}`); }
  async findByUid() { return undefined; }
  async findByUserCode() { return undefined; }
  async consume(id) { storage.get(`${this.model} ${id}`).consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { storage.delete(`${this.model} ${id}`); }
  async revokeByGrantId(grantId) {
    for (const [key, payload] of storage) if (payload.grantId === grantId) storage.delete(key);
  }
}

async function newKey() {
  const { privateKey } = await generateKeyPair(algorithm, { extractable: true });
  generation += 1;
  return { ...await exportJWK(privateKey), kid: `key-${generation}`, use: 'sig', alg: algorithm };
}

// A provider signs with the first key that fits. Its set of keys is fixed, so other keys take another provider.
function renew() {
  current = new Provider(`http://127.0.0.1:${port}`, {
    adapter: Adapter,
    clients: clients.map(({ claims, ...client }) => ({
      redirect_uris: [], response_types: [], id_token_signed_response_alg: algorithm, ...client,
    })),
    jwks: { keys },
    enabledJWA: { idTokenSigningAlgValues: [algorithm] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          audience, scope: 'jobs', accessTokenFormat: 'jwt', accessTokenTTL: settings.lifetime,
          jwt: { sign: { alg: algorithm } },
        }),
      },
    },
    scopes: ['jobs', 'offline_access'],
    ttl: { RefreshToken: 86400, Grant: 86400 },
    rotateRefreshToken: () => settings.rotates,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (_, token) => clients.find((client) => client.client_id === token.clientId)?.claims,
  });
}

const server = http.createServer((request, response) => {
  const [path] = request.url.split('?');
  requests[path] = (requests[path] ?? 0) + 1;
  current.callback()(request, response);
});

const orders = {
  open: () => new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      port = server.address().port;
      if (current === null) renew();
      resolve({ port });
    });
  }),
  close: () => new Promise((resolve) => {
    server.close(() => resolve({}));
    server.closeAllConnections();
  }),
  async rotate({ keep }) {
    keys = [await newKey(), ...(keep ? keys : [])];
    renew();
    return { keys: keys.map(({ kid }) => kid) };
  },
  set({ name, value }) {
    if (name === 'clock') offset = value; else settings[name] = value;
    return {};
  },
  requests: () => requests,
  async refreshToken({ clientId, accountId }) {
    const grant = new current.Grant({ clientId, accountId });
    grant.addOIDCScope('offline_access');
    grant.addResourceScope(audience, 'jobs');
    const token = new current.RefreshToken({
      accountId, client: await current.Client.find(clientId), grantId: await grant.save(), gty: 'authorization_code',
      resource: audience, scope: 'jobs offline_access',
    });
    return { token: await token.save() };
  },
};

keys = [await newKey()];
for await (const line of createInterface({ input: process.stdin })) {
  const { order, ...options } = JSON.parse(line);
  let answer;
  try {
    answer = await orders[order](options);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
