/**
 * What the wire shows of the API to whoever is not known to it: the same TLS
 * records, and no more of them, whatever it lacks; and TLS to what is no TLS.
 * A relay between counts the records, since the peer itself sees them opened.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import tls from 'node:tls';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Issued } from '../pki.ts';
import { ApiFixture, BASE } from './api-fixture.ts';

const REQUEST = `GET ${BASE}/limits HTTP/1.1\r\nHost: gateway.example\r\n\r\n`;
const ALERT = 21;
const api = new ApiFixture();
let revoked: Issued;
let relay: Server;
let seen: Buffer[] = [];

beforeAll(async () => {
  revoked = api.ca.issue({ name: 'gone', san: ['URI:urn:mtc:acme:head-end'] });
  api.ca.revoke(revoked);
  await api.start({
    minimumVersion: 'TLSv1.2',
    clientCas: [{ name: 'mtc-ca', pem: api.ca.certificate, crl: api.ca.crl() }],
  });
  relay = createServer({ noDelay: true }, (client) => {
    const server = connect(api.server.endpoint.port, '127.0.0.1');
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
    client.pipe(server);
    server.on('data', (bytes: Buffer) => {
      seen.push(bytes);
      client.write(bytes);
    });
  });
  await once(relay.listen(0, '127.0.0.1'), 'listening');
});
afterAll(async () => {
  relay.close();
  await api.stop();
});

const portOf = () => (relay.address() as { port: number }).port;

/** The types of the records that came from the server, in order. Their sizes vary with signatures. */
function recordTypes(bytes: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at + 5 <= bytes.length; at += 5 + bytes.readUInt16BE(at + 3)) types.push(bytes[at] as number);
  return types;
}

/** What one sees that shakes hands and asks, to the end of its connection. */
async function show(client: Issued | undefined, version: tls.SecureVersion, more: tls.ConnectionOptions = {}) {
  seen = [];
  const { cert: _, key: __, ...options } = api.tls(client) as tls.ConnectionOptions;
  const own = client && { cert: client.certificate, key: client.key };
  const socket = tls.connect({ ...options, ...own, ...more, port: portOf(), minVersion: version, maxVersion: version });
  let answer = '';
  socket.on('data', (bytes) => (answer += bytes)).on('error', () => {});
  socket.once('secureConnect', () => socket.write(REQUEST));
  await new Promise((closed) => socket.once('close', closed));
  return { answer, types: recordTypes(Buffer.concat(seen)) };
}

describe.each(['TLSv1.3', 'TLSv1.2'] as const)('%s', (version) => {
  const { clients } = api;
  it('shows every unknown one the same records, none of them an answer', async () => {
    const unknown: [string, Issued | undefined][] = [
      ['nobody', clients.stranger],
      ['no certificate', undefined],
      ['another CA', clients.wrongCa],
      ['expired', clients.expired],
      ['self-signed', clients.selfSigned],
      ['for servers', clients.forServers],
      ['revoked', revoked],
      ['two at once', clients.both],
    ];
    const shown = [];
    for (const [what, client] of unknown) shown.push({ what, ...(await show(client, version)) });
    const [first] = shown;
    for (const one of shown) expect(one).toEqual({ what: one.what, answer: '', types: first?.types });
    expect(first?.types).not.toContain(version === 'TLSv1.2' ? ALERT : undefined);
  });

  it('answers no name and no protocol otherwise than another', async () => {
    const plain = await show(clients.stranger, version);
    const named = await show(clients.stranger, version, {
      servername: 'internal.example',
      checkServerIdentity: () => undefined,
    });
    expect(named).toEqual(plain);
  });

  it('does not say which CAs are trusted', async () => {
    const flag = { 'TLSv1.3': '-tls1_3', 'TLSv1.2': '-tls1_2' }[version];
    const command = `sleep 1 | timeout 20 openssl s_client -connect 127.0.0.1:${api.server.endpoint.port} ${flag} 2>&1 || true`;
    const { stdout } = await promisify(execFile)('sh', ['-c', command]);
    expect(stdout).toContain('No client certificate CA names sent');
  });
});

it.each([
  ['HTTP', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'],
  ['rubbish', '\u0000\u0001\u0002 not TLS at all, and long enough to be looked at'],
  ['SSH', 'SSH-2.0-probe\r\n'],
])(
  '%s without TLS is answered by a TLS alert or by nothing',
  async (_what, text) => {
    const socket: Socket = connect(api.server.endpoint.port, '127.0.0.1');
    const got: Buffer[] = [];
    socket.on('data', (bytes) => got.push(bytes)).on('error', () => {});
    socket.write(text, 'latin1');
    await once(socket, 'close');
    const types = recordTypes(Buffer.concat(got));
    expect(types.every((type) => type === ALERT)).toBe(true);
    expect(Buffer.concat(got).toString('latin1')).not.toMatch(/HTTP|mtgate/);
  },
  30_000,
);
