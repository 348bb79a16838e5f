/** Who gets through the handshake, who is who behind it, and for how long. */
import https from 'node:https';
import tls from 'node:tls';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { operations } from '../../agent/api/routes.ts';
import { AgentError } from '../../agent/core/errors.ts';
import { ApiFixture, BASE } from './api-fixture.ts';

const LIMITS = `${BASE}/limits`;
const api = new ApiFixture();
beforeAll(() => api.start());
afterAll(() => api.stop());
let tests = 0;
beforeEach(() => {
  api.lines.splice(0);
  tests += 1;
  api.aheadMs = tests * 1_000; // so that no test has spent the next one's log lines of a second
});

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

  it('a revoked one, and all where a list is missing', async () => {
    const gone = api.ca.issue({ name: 'gone', san: ['URI:urn:mtc:acme:head-end'] });
    api.ca.revoke(gone);
    await withApi(
      async (listed) => {
        await expect(listed.ask({ path: LIMITS, client: gone })).rejects.toThrow();
        await listed.line('tlsRefused', { reason: 'tlsRevoked' });
        expect((await listed.ask({ path: LIMITS })).status).toBe(200);
        await expect(listed.ask({ path: LIMITS, client: clients.wrongCa })).rejects.toThrow();
        await listed.line('tlsRefused', { reason: 'tlsRevocationUnknown' });
      },
      {
        crls: [api.ca.crl()],
        clientCas: [
          { name: 'mtc-ca', pem: api.ca.certificate },
          { name: 'other-ca', pem: api.certificates.other.certificate },
        ],
      },
    );
  });
});

describe('behind the handshake', () => {
  const { clients } = api;
  it.each([
    ['a stranger', clients.stranger, 403, 'certificateUnknown'],
    ['an MTC user', clients.tenant, 403, 'certificateUnknown'],
    ['two servers at once', clients.both, 403, 'certificateAmbiguous'],
    ['a certificate for any use', clients.anyUse, 401, 'certificateWrongUse'],
    ['another source', clients.faraway, 403, 'sourceNotAllowed'],
    ['a name with another inside', clients.injected, 403, 'certificateUnknown'],
  ])('%s is refused before the path is looked at', async (_what, client, status, reason) => {
    for (const path of [LIMITS, '/nowhere', '/%zz']) {
      const answered = await api.ask({ path, client });
      expect([answered.status, answered.body.status]).toEqual([status, status]);
      expect((await api.line('refused', { instance: answered.body.instance }))['reason']).toBe(reason);
    }
  });

  it('a leaf of a CA that another name holds too is nobody', () =>
    withApi(
      async (twice) => {
        expect((await twice.ask({ path: LIMITS })).status).toBe(403);
        await twice.line('refused', { reason: 'certificateAmbiguous' });
      },
      { clientCas: ['mtc-ca', 'copy'].map((name) => ({ name, pem: api.ca.certificate })) },
    ));

  it('an intermediate is its bundle, and another CA is not this one', async () => {
    const below = api.certificates.other.intermediate('below');
    const client = below.issue({ name: 'client', san: ['URI:urn:mtc:acme:head-end'] });
    const root = api.certificates.other.certificate;
    const bundle = (name: string) => [{ name, pem: `${root}${below.certificate}` }];
    await withApi(async (it) => expect((await it.ask({ path: LIMITS, client })).status).toBe(200), {
      clientCas: bundle('mtc-ca'),
    });
    await withApi(async (it) => expect((await it.ask({ path: LIMITS, client })).status).toBe(403), {
      clientCas: bundle('other'),
    });
    // The chain comes from the peer and passes the handshake; who issued the leaf does not stand in the bundle.
    const chained = { ...client, certificate: `${client.certificate}${below.certificate}` };
    await withApi(
      async (it) => {
        expect((await it.ask({ path: LIMITS, client: chained })).status).toBe(403);
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
      const late = await api.ask({ path: LIMITS, agent });
      expect([late.status, late.body.code]).toEqual([401, 'UNAUTHENTICATED']);
      await api.line('refused', { reason: 'certificateExpired' });
    } finally {
      agent.destroy();
    }
  });

  it('a resumed session has the same identity, issuer included', async () => {
    const first = await exchange(api);
    const second = await exchange(api, first.session);
    expect([first.reused, second.reused]).toEqual([false, true]);
    expect(first.head).toContain('200 OK');
    expect(second.head).toContain('200 OK');
  });
});

describe('a reload', () => {
  it('cuts idle connections, resumes no session of before, and goes by the new lists', () =>
    withApi(async (it) => {
      const client = it.ca.issue({ name: 'leaver', san: ['URI:urn:mtc:acme:head-end'] });
      const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
      expect((await it.ask({ path: LIMITS, client, agent })).status).toBe(200);
      const before = await exchange(it);
      it.ca.revoke(client);
      it.server.reload(it.material({ crls: [it.ca.crl()] }));
      await expect(it.ask({ path: LIMITS, client, agent })).rejects.toThrow();
      await expect(it.ask({ path: LIMITS, client })).rejects.toThrow();
      await it.line('tlsRefused', { reason: 'tlsRevoked' });
      const after = await exchange(it, before.session);
      expect([after.reused, after.head.includes('200 OK')]).toEqual([false, true]);
      agent.destroy();
    }));

  it('lets an answer under way come to its end, and the connection with it', async () => {
    const other = new ApiFixture(api);
    let go = () => {};
    const waiting = new Promise<void>((resolve) => {
      go = resolve;
    });
    const table = { ...operations(other.grants, other.refuse, other.clock) };
    const getLimits = table['getLimits'];
    if (!getLimits) throw new Error('no getLimits');
    table['getLimits'] = async (call) => {
      other.lines.push({ level: 'debug', event: 'asked' });
      await waiting;
      return getLimits(call);
    };
    await other.start({}, {}, table);
    const asked = other.ask({ path: LIMITS });
    await other.line('asked');
    other.server.reload(other.material());
    go();
    const answered = await asked;
    expect([answered.status, answered.headers['connection']]).toEqual([200, 'close']);
    await other.server.close();
  });

  it('changes nothing where the new material is wrong', async () => {
    const wrong = { crls: ['no list'] };
    expect(() => api.server.reload(api.material(wrong))).toThrow(AgentError);
    expect(() => api.server.reload(api.material({ key: api.clients.acme.key }))).toThrow(AgentError);
    expect((await api.ask({ path: LIMITS })).status).toBe(200);
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
  it('a client CA that is none', () => {
    return stopped('certificateInvalid', { clientCas: [{ name: 'x', pem: api.clients.acme.certificate }] });
  });
  it('a client CA without certificates', () => stopped('certificateInvalid', { clientCas: [{ name: 'x', pem: '' }] }));
  it('a key of another certificate', () => stopped('certificateInvalid', { key: api.clients.acme.key }));
  it('an address that is taken', async () => {
    const { startApi } = await import('../../agent/api/server.ts');
    const { identity, random } = await import('./api-fixture.ts');
    const { grants, refuse, clock, log } = api;
    const parts = { grants, identity, refuse, refusedHandshake: () => {}, clock, random, log };
    await expect(startApi(api.server.endpoint, api.material(), parts)).rejects.toMatchObject({ code: 'listenFailed' });
  });
});

/** One request over a TLS connection of its own; gives the session for the next. */
function exchange(api: ApiFixture, session?: Buffer): Promise<{ session: Buffer; head: string; reused: boolean }> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ ...api.tls(), ...(session ? { session } : {}) } as tls.ConnectionOptions);
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
    socket.write(`GET ${LIMITS} HTTP/1.1\r\nHost: gateway.example\r\nConnection: close\r\n\r\n`);
  });
}
