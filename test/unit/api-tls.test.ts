/** Who gets through the handshake, who is who behind it, and for how long. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import https from 'node:https';
import { connect } from 'node:net';
import tls from 'node:tls';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { operations } from '../../agent/api/routes.ts';
import { AgentError } from '../../agent/core/errors.ts';
import { derOf, type Issued, loopbackServer } from '../pki.ts';
import { ApiFixture, BASE, type Files } from './api-fixture.ts';

const LIMITS = `${BASE}/limits`;
const REQUEST = `GET ${LIMITS} HTTP/1.1\r\nHost: gateway.example\r\n\r\n`;
const api = new ApiFixture();
beforeAll(() => api.start());
afterAll(() => api.stop());
let tests = 0;
beforeEach(() => {
  api.lines.splice(0);
  tests += 1;
  api.aheadMs = tests * 1_000; // so that no test has spent the next one's log lines of a second
});

function withPassphrase(key: string): string {
  const form = { type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'secret' } as const;
  return createPrivateKey(key).export(form).toString();
}

/** A peer that is nobody: its handshake passes, nothing is answered, and the log says why. */
async function isCut(it: ApiFixture, reason: string, ask: Parameters<ApiFixture['ask']>[0]): Promise<void> {
  await expect(it.ask(ask)).rejects.toThrow(/hang up|ECONNRESET|EPIPE|closed/);
  await it.line('refused', { reason });
}

/** Another server with the same certificates, for one test. */
async function withApi(
  use: (api: ApiFixture) => Promise<void>,
  ...args: Parameters<ApiFixture['start']>
): Promise<void> {
  const other = new ApiFixture(api);
  await other.start(...args);
  try {
    await use(other);
  } finally {
    await other.server.close();
  }
}

describe('the handshake refuses', () => {
  const { clients } = api;
  it.each([
    ['no certificate', undefined, 'tlsNoCertificate'],
    ['an expired one', clients.expired, 'tlsCertificateExpired'],
    ['one of another CA', clients.wrongCa, 'tlsUnknownCa'],
    ['one for servers', clients.forServers, 'tlsWrongUse'],
    ['one that begins tomorrow', clients.early, 'tlsCertificateExpired'],
    ['a self-signed one', clients.selfSigned, 'tlsUnknownCa'],
    ['one below more CAs than it shows', clients.deep, 'tlsUnknownCa'],
  ])('%s', async (_what, client, reason) => {
    await expect(api.ask({ path: LIMITS, client })).rejects.toThrow();
    expect(await api.line('tlsRefused', { reason })).toMatchObject({ remote: '127.0.0.1', why: expect.any(String) });
    expect(api.handshakes).toContainEqual({ reason, remote: '127.0.0.1' });
  });

  it('TLS 1.2, unless it is configured', async () => {
    const old = { maxVersion: 'TLSv1.2' } as const;
    await expect(api.ask({ path: LIMITS, tls: old })).rejects.toThrow(/protocol version/i);
    await api.line('tlsRefused', { reason: 'tlsVersion' });
    await withApi(
      async (lenient) => {
        expect((await lenient.ask({ path: LIMITS, tls: old })).status).toBe(200);
        const cbc = { ...old, ciphers: 'ECDHE-ECDSA-AES128-SHA256' };
        await expect(lenient.ask({ path: LIMITS, tls: cbc })).rejects.toThrow(/handshake failure/i);
      },
      { minimumVersion: 'TLSv1.2' },
    );
  });
});

describe('behind the handshake', () => {
  const { clients } = api;
  it.each([
    ['a stranger', clients.stranger, 'certificateUnknown'],
    ['two servers at once', clients.both, 'certificateAmbiguous'],
    ['a certificate for any use', clients.anyUse, 'certificateWrongUse'],
    ['a name with another inside', clients.injected, 'certificateUnknown'],
    ['no name at all', clients.nameless, 'certificateUnknown'],
  ])('%s is told nothing, whatever it asks for', async (_what, client, reason) => {
    for (const path of [LIMITS, '/nowhere', '/%zz']) {
      api.lines.splice(0);
      await isCut(api, reason, { path, client });
    }
  });

  it('another source is refused before the path is looked at', async () => {
    for (const path of [LIMITS, '/nowhere', '/%zz']) {
      const answered = await api.ask({ path, client: clients.faraway });
      expect([answered.status, answered.body.status]).toEqual([403, 403]);
      expect((await api.line('refused', { instance: answered.body.instance }))['reason']).toBe('sourceNotAllowed');
    }
  });

  it.each([
    [LIMITS, 'wrongRole'],
    [`${BASE}/nowhere`, 'wrongRole'],
    // However it is written: what the router takes it for counts.
    [LIMITS.replace('mobile', '%6dobile'), 'wrongRole'],
    ['/nowhere', 'notFound'],
  ])('an MTC user is told nothing of the API of servers: %s', async (path, reason) => {
    const answered = await api.ask({ path, client: clients.tenant });
    expect(answered.body).toMatchObject({ status: reason === 'wrongRole' ? 403 : 404 });
    expect(await api.line('refused', { instance: answered.body.instance })).toMatchObject({ reason, mtcUser: 'acme' });
  });

  it('a leaf of a CA that another name holds too is nobody', () =>
    withApi(
      async (twice) => {
        await isCut(twice, 'certificateAmbiguous', { path: LIMITS });
      },
      { clientCas: ['mtc-ca', 'copy'].map((name) => ({ name, pem: api.ca.certificate })) },
    ));

  it('a long chain that the peer brings is no chain of the CA', async () => {
    const chained = { ...api.clients.deep, certificate: api.clients.deepChain };
    await isCut(api, 'certificateUnknown', { path: LIMITS, client: chained });
    expect((await api.line('refused'))['why']).toContain('no certificate of a named client CA');
  });

  it('an expired CA passes nobody', () =>
    withApi(
      async (it) => {
        const past = it.certificates.past;
        await expect(it.ask({ path: LIMITS, client: it.clients.ofPast })).rejects.toThrow();
        await it.line('tlsRefused', { reason: 'tlsCertificateExpired' });
        expect((await it.ask({ path: LIMITS })).status).toBe(200);
        expect(past.name).toBe('past-ca');
      },
      {
        clientCas: [
          { name: 'mtc-ca', pem: api.ca.certificate },
          { name: 'past-ca', pem: api.certificates.past.certificate },
        ],
      },
    ));

  it('an intermediate is its bundle, and another CA is not this one', async () => {
    const below = api.certificates.other.intermediate('below');
    const client = below.issue({ name: 'client', san: ['URI:urn:mtc:acme:head-end'] });
    const root = api.certificates.other.certificate;
    const bundle = (name: string) => [{ name, pem: `${root}${below.certificate}` }];
    await withApi(async (it) => expect((await it.ask({ path: LIMITS, client })).status).toBe(200), {
      clientCas: bundle('mtc-ca'),
    });
    await withApi(async (it) => isCut(it, 'certificateUnknown', { path: LIMITS, client }), {
      clientCas: bundle('other'),
    });
    // The chain comes from the peer and passes the handshake; who issued the leaf does not stand in the bundle.
    const chained = { ...client, certificate: `${client.certificate}${below.certificate}` };
    await withApi(
      async (it) => {
        await isCut(it, 'certificateUnknown', { path: LIMITS, client: chained });
        expect((await it.line('refused'))['why']).toContain('no certificate of a named client CA');
      },
      { clientCas: [{ name: 'mtc-ca', pem: root }] },
    );
  });

  it('is judged again on every request of a connection', async () => {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    try {
      expect((await api.ask({ path: LIMITS, agent })).status).toBe(200);
      api.aheadMs = 40 * 86_400_000;
      await isCut(api, 'certificateExpired', { path: LIMITS, agent });
    } finally {
      agent.destroy();
    }
  });

  it('a revoked one is told nothing; a CA whose list cannot be used refuses its own, and no other', async () => {
    const gone = api.ca.issue({ name: 'gone', san: ['URI:urn:mtc:acme:head-end'] });
    api.ca.revoke(gone);
    const theirs = { name: 'other-ca', pem: api.certificates.other.certificate, crl: 'no list' };
    await withApi(
      async (listed) => {
        await isCut(listed, 'certificateRevoked', { path: LIMITS, client: gone });
        expect((await listed.ask({ path: LIMITS })).status).toBe(200);
        await isCut(listed, 'certificateUnknown', { path: LIMITS, client: clients.wrongCa }); // nobody's, list or no list
      },
      { clientCas: [{ name: 'mtc-ca', pem: api.ca.certificate, crl: api.ca.crl() }, theirs] },
    );
    await withApi(
      async (unlisted) => {
        const unknown = await unlisted.ask({ path: LIMITS });
        expect([unknown.status, unknown.body.code]).toEqual([503, 'UNAVAILABLE']);
        expect(await unlisted.line('refused', { instance: unknown.body.instance })).toMatchObject({
          reason: 'revocationUnknown',
          why: 'client CA mtc-ca: mtc-ca.crl: holds no X509 CRL in PEM',
        });
        await isCut(unlisted, 'certificateUnknown', { path: LIMITS, client: clients.stranger });
      },
      { clientCas: [{ name: 'mtc-ca', pem: api.ca.certificate, crl: 'no list' }] },
    );
  });

  it('a list that ends while the agent runs refuses from then on, on open connections too', () =>
    withApi(
      async (it) => {
        const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
        expect((await it.ask({ path: LIMITS, agent })).status).toBe(200);
        it.aheadMs += 2 * 3_600_000;
        expect((await it.ask({ path: LIMITS, agent })).status).toBe(503);
        await it.line('refused', { reason: 'revocationUnknown' });
        it.server.reload(it.trust({ clientCas: [{ name: 'mtc-ca', pem: it.ca.certificate, crl: it.ca.crl() }] }));
        const again = await it.ask({ path: LIMITS, agent });
        expect([again.status, again.port]).toEqual([200, (await it.ask({ path: LIMITS, agent })).port]);
        agent.destroy();
      },
      {
        clientCas: [
          {
            name: 'mtc-ca',
            pem: api.ca.certificate,
            crl: api.ca.crl({ nextUpdate: new Date(Date.now() + 3_600_000) }),
          },
        ],
      },
    ));
});

describe.each(['TLSv1.3', 'TLSv1.2'] as const)('a session of %s', (version) => {
  const lenient = { minimumVersion: 'TLSv1.2' } as const;
  const speak = (it: ApiFixture, session?: Buffer, client?: Issued) =>
    exchange(it, session, client, { minVersion: version, maxVersion: version });

  it('is resumed with the same identity, issuer included, and judged by the certificate it began with', () =>
    withApi(async (it) => {
      const first = await speak(it);
      const second = await speak(it, first.session);
      expect([first.reused, second.reused]).toEqual([false, true]);
      expect(first.head).toContain('200 OK');
      expect(second.head).toContain('200 OK');
      // Whoever resumes it, and with whatever certificate.
      const { session } = await speak(it, undefined, it.clients.faraway);
      const other = await speak(it, session, it.clients.acme);
      expect([other.reused, other.head.includes('403 Forbidden')]).toEqual([true, true]);
      it.aheadMs = 40 * 86_400_000;
      const late = await speak(it, second.session);
      expect([late.reused, late.head]).toEqual([true, '']);
    }, lenient));

  it('cannot be resumed after its time, after a reload, or at another server', async () => {
    expect(api.trust().context.sessionTimeout).toBe(300);
    const brief = new ApiFixture(api);
    brief.trust = (over) => {
      const trust = ApiFixture.prototype.trust.call(brief, over);
      return { ...trust, context: { ...trust.context, sessionTimeout: 1 } };
    };
    await brief.start(lenient);
    const first = await speak(brief);
    expect((await speak(brief, first.session)).reused).toBe(true);
    const { session } = await speak(brief);
    await new Promise((resolve) => setTimeout(resolve, 2_100)); // OpenSSL's own clock, in whole seconds
    const late = await speak(brief, session);
    expect([late.reused, late.head.includes('200 OK')]).toEqual([false, true]);
    const { session: fresh } = await speak(brief);
    await withApi(async (other) => expect((await speak(other, fresh)).reused).toBe(false), lenient);
    brief.server.reload(brief.trust(lenient));
    const after = await speak(brief, fresh);
    expect([after.reused, after.head.includes('200 OK')]).toEqual([false, true]);
    await brief.server.close();
  }, 15_000);
});

describe('a reload', () => {
  const withList = (it: ApiFixture) => ({
    clientCas: [{ name: 'mtc-ca', pem: it.ca.certificate, crl: it.ca.crl() }],
  });
  const keptOpen = () => new https.Agent({ keepAlive: true, maxSockets: 1 });

  it('keeps a connection that still passes, cuts one whose certificate is revoked, and resumes no session', () =>
    withApi(async (it) => {
      const leaver = it.ca.issue({ name: 'leaver', san: ['URI:urn:mtc:acme:head-end'] });
      const staying = keptOpen();
      const { port } = await it.ask({ path: LIMITS, agent: staying });
      const leaving = tls.connect(it.tls(leaver) as tls.ConnectionOptions);
      leaving.write(REQUEST);
      expect(String(await once(leaving, 'data'))).toContain('200 OK');
      const gone = once(leaving, 'close');
      const before = await exchange(it);
      it.ca.revoke(leaver);
      it.server.reload(it.trust(withList(it)));
      expect(await it.ask({ path: LIMITS, agent: staying })).toMatchObject({ status: 200, port });
      await gone;
      await isCut(it, 'certificateRevoked', { path: LIMITS, client: leaver });
      const after = await exchange(it, before.session);
      expect([after.reused, after.head.includes('200 OK')]).toEqual([false, true]);
      staying.destroy();
    }));

  it('judges a revoked certificate on a session that was resumed before, too', () =>
    withApi(async (it) => {
      const leaver = it.ca.issue({ name: 'leaver', san: ['URI:urn:mtc:acme:head-end'] });
      const { session } = await exchange(it, undefined, leaver);
      it.ca.revoke(leaver);
      it.server.reload(it.trust(withList(it)));
      expect((await exchange(it, session, leaver)).head).toBe('');
      await it.line('refused', { reason: 'certificateRevoked' });
    }));

  it('with two CAs for the time of a change: each of both passes, and none of a CA that has gone', () =>
    withApi(async (it) => {
      const next = it.certificates.other;
      const of = (pem: string) => ({ clientCas: [{ name: 'mtc-ca', pem }] });
      const newcomer = it.clients.wrongCa;
      await expect(it.ask({ path: LIMITS, client: newcomer })).rejects.toThrow();
      it.server.reload(it.trust(of(`${it.ca.certificate}${next.certificate}`)));
      const [old, fresh] = [keptOpen(), keptOpen()];
      expect((await it.ask({ path: LIMITS, agent: old })).status).toBe(200);
      const { status, port } = await it.ask({ path: LIMITS, client: newcomer, agent: fresh });
      expect(status).toBe(200);
      it.server.reload(it.trust(of(next.certificate)));
      expect(await it.ask({ path: LIMITS, client: newcomer, agent: fresh })).toMatchObject({ status: 200, port });
      await expect(it.ask({ path: LIMITS, agent: old })).rejects.toThrow();
      await expect(it.ask({ path: LIMITS })).rejects.toThrow();
      await it.line('tlsRefused', { reason: 'tlsUnknownCa' });
      old.destroy();
      fresh.destroy();
    }));

  it('shows the new server certificate to who comes, and leaves who is there', () =>
    withApi(async (it) => {
      const agent = keptOpen();
      const { port } = await it.ask({ path: LIMITS, agent });
      const { certificate, key } = loopbackServer(it.ca);
      it.server.reload(it.trust({ certificate, key }));
      expect(await it.ask({ path: LIMITS, agent })).toMatchObject({ status: 200, port });
      const socket = tls.connect(it.tls() as tls.ConnectionOptions);
      await once(socket, 'secureConnect');
      expect(socket.getPeerX509Certificate()?.serialNumber).toBe(new X509Certificate(certificate).serialNumber);
      socket.destroy();
      agent.destroy();
    }));

  it('cuts who is still in the handshake, so that nobody is let in by the CAs of before', () =>
    withApi(
      async (it) => {
        const socket = connect(it.port, '127.0.0.1');
        const cut = once(socket, 'close');
        await once(socket, 'connect');
        socket.write(Buffer.from([0x16, 0x03, 0x01])); // the first octets of a ClientHello
        await exchange(it); // by now the server has accepted the first
        it.server.reload(it.trust());
        await cut;
      },
      {},
      { handshakeMs: 60_000 },
    ));

  it('lets an answer under way come to its end, and the connection go on; not to who is revoked', async () => {
    const other = new ApiFixture(api);
    let go = () => {};
    const waiting = new Promise<void>((resolve) => {
      go = resolve;
    });
    const table = { ...operations(other.grants, other.refuse, other.clock) };
    const getLimits = table['getLimits'];
    if (!getLimits) throw new Error('no getLimits');
    table['getLimits'] = async (call) => {
      other.lines.push({ level: 'debug', event: 'asked', server: call.who.name });
      await waiting;
      return getLimits(call);
    };
    await other.start({}, {}, table);
    const agent = keptOpen();
    const asked = other.ask({ path: LIMITS, agent });
    const leaver = other.ca.issue({ name: 'leaver', san: ['URI:urn:mtc:beta'] });
    const cut = expect(other.ask({ path: LIMITS, client: leaver })).rejects.toThrow(/socket hang up|ECONNRESET/);
    await other.line('asked', { server: 'acme-head-end' });
    await other.line('asked', { server: 'beta' });
    other.ca.revoke(leaver);
    other.server.reload(other.trust(withList(other)));
    await cut;
    go();
    const { status, port } = await asked;
    expect(status).toBe(200);
    expect(await other.ask({ path: LIMITS, agent })).toMatchObject({ status: 200, port });
    agent.destroy();
    await other.server.close();
  });
});

describe('files that cannot be used are named', () => {
  const { certificate, key } = api.certificates.api;
  it.each<[string, Partial<Files>, RegExp]>([
    ['a key of another certificate', { key: api.clients.acme.key }, /^api\.key: is not the key .* in api\.crt$/],
    ['a key in DER', { key: derOf(key) }, /^api\.key: holds no private key in PEM .*; it looks like DER$/],
    ['a certificate for a key', { key: certificate }, /^api\.key: holds no private key in PEM without a passphrase$/],
    ['a key under a passphrase', { key: withPassphrase(key) }, /^api\.key: holds no private key .* passphrase$/],
    ['a certificate in DER', { certificate: derOf(certificate) }, /^api\.crt: holds no CERTIFICATE.* like DER$/],
    ['a key for a certificate', { certificate: key }, /^api\.crt: holds no CERTIFICATE in PEM$/],
    ['an empty certificate', { certificate: '' }, /^api\.crt: holds no CERTIFICATE in PEM$/],
    ['an empty CA', { clientCas: [{ name: 'x', pem: '' }] }, /^client CA x: x\.crt: holds no CERTIFICATE/],
    ["no CA's", { clientCas: [{ name: 'x', pem: certificate }] }, /^client CA x: x\.crt: CN=api is not a CA's/],
  ])('%s', (_, files, says) => {
    expect(() => api.trust(files)).toThrow(AgentError);
    expect(() => api.trust(files)).toThrow(says);
  });
});

describe('the start is stopped by', () => {
  const stopped = async (code: string, ...args: Parameters<ApiFixture['start']>) => {
    const other = new ApiFixture(api);
    const fault = await other.start(...args).then(
      () => other.server.close(),
      (error: unknown) => error,
    );
    expect(fault).toBeInstanceOf(AgentError);
    expect(fault).toMatchObject({ code });
  };
  const table = () => operations(api.grants, api.refuse, api.clock);

  it('an operation without a handler', () => {
    const { getLimits: _, ...rest } = table();
    return stopped('contractBroken', {}, {}, rest);
  });
  it('a handler without an operation', () => {
    return stopped('contractBroken', {}, {}, { ...table(), openAll: () => ({ status: 204 }) });
  });
  it('an address that is taken', async () => {
    const { startApi } = await import('../../agent/api/server.ts');
    const { identity, random } = await import('./api-fixture.ts');
    const { refuse, clock, log } = api;
    const parts = {
      identity,
      refuse,
      refusedHandshake: () => {},
      streamCut: () => {},
      shedConnection: () => {},
      clock,
      random,
      log,
    };
    await expect(startApi(api.server.endpoint, api.trust(), parts, [])).rejects.toMatchObject({ code: 'listenFailed' });
  });
});

/** One request over a TLS connection of its own; gives the session for the next. */
function exchange(
  api: ApiFixture,
  session?: Buffer,
  client?: Issued,
  version: tls.SecureContextOptions = {},
): Promise<{ session: Buffer; head: string; reused: boolean }> {
  return new Promise((resolve, reject) => {
    const options = { ...api.tls(client), ...(session ? { session } : {}), ...version };
    const socket = tls.connect(options as tls.ConnectionOptions);
    let ticket = session;
    let reused = false;
    let head = '';
    socket.on('secureConnect', () => {
      reused = socket.isSessionReused();
    });
    socket.on('session', (given) => {
      ticket = given;
    });
    socket.on('error', reject);
    socket.on('data', (chunk) => {
      head += chunk;
    });
    socket.on('close', () => {
      if (ticket) resolve({ session: ticket, head, reused });
      else reject(new Error('no session ticket'));
    });
    socket.write(REQUEST.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'));
  });
}
