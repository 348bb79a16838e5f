/** The MTC user's API, by the real server over TLS, with two tenants. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { M1, M2, R1, Tenants } from '../mtc-user.ts';

let tenants: Tenants;
beforeAll(async () => {
  tenants = new Tenants();
  await tenants.start();
});
afterAll(() => tenants.stop());

const as = (...asked: Parameters<Tenants['as']>) => tenants.as(...asked);
const SERVERS = '/authorised-servers';

describe('authorised servers', () => {
  test('are those of the rule files at first, with those that may be; and nobody else’s', async () => {
    const { status, body, headers } = await as('acme', 'GET', SERVERS);
    expect(status).toBe(200);
    expect(body).toEqual({ servers: ['head-end'], mayAuthorise: ['head-end', 'tariffs'], setBy: 'RULE_FILES' });
    expect(headers['etag']).toMatch(/^"[0-9a-f]{20}"$/);
    expect((await as('rival', 'GET', SERVERS)).body).toEqual({
      servers: ['head-end', 'rival-head'],
      mayAuthorise: ['head-end', 'rival-head'],
      setBy: 'RULE_FILES',
    });
  });

  test('are added and withdrawn, and asked for accordingly', async () => {
    expect((await tenants.request('tariffs', M1)).status).toBe(404);
    const added = await as('acme', 'POST', SERVERS, { server: 'tariffs' });
    expect(added.body).toMatchObject({ servers: ['head-end', 'tariffs'], setBy: 'MTC_USER' });
    const grant = await tenants.open('tariffs', M1);
    expect((await as('acme', 'DELETE', `${SERVERS}/tariffs`)).status).toBe(204);
    expect(tenants.gateway.store.find(grant)).toMatchObject({ state: 'ended', endCause: 'serverUnauthorised' });
    const refused = await tenants.request('tariffs', M1);
    const unknown = await tenants.request('tariffs', 'nobody@meters.example');
    const bare = ({ instance: _, ...rest }: Record<string, unknown>) => rest;
    expect(bare(refused.body)).toEqual(bare(unknown.body));
    expect((await as('acme', 'DELETE', `${SERVERS}/tariffs`)).status).toBe(204);
    expect((await as('acme', 'DELETE', `${SERVERS}/never-was`)).status).toBe(204);
  });

  test.each(['rival-head', 'never-was'])(
    '%s is not to be authorised, and whether it exists is not told',
    async (server) => {
      const before = (await as('acme', 'GET', SERVERS)).text;
      for (const refused of [
        await as('acme', 'POST', SERVERS, { server }),
        await as('acme', 'PUT', SERVERS, { servers: ['head-end', server] }),
      ]) {
        expect(refused.status).toBe(403);
        expect(refused.body).toEqual({
          type: 'urn:mtgate:problem:server-not-authorisable',
          title: 'This is no server that you may authorise',
          status: 403,
          detail: `"${server}" is none that you may authorise`,
          instance: expect.any(String),
          code: 'SERVER_NOT_AUTHORISABLE',
        });
      }
      expect((await as('acme', 'GET', SERVERS)).text).toBe(before);
    },
  );

  test('are set only if they are what was seen, where that is asked', async () => {
    const seen = await as('acme', 'GET', SERVERS);
    const match = { 'if-match': String(seen.headers['etag']) };
    const set = await as('acme', 'PUT', SERVERS, { servers: ['head-end', 'tariffs'] }, { headers: match });
    expect(set.status).toBe(200);
    expect(set.headers['etag']).not.toBe(seen.headers['etag']);
    const late = await as('acme', 'PUT', SERVERS, { servers: [] }, { headers: match });
    expect(late).toMatchObject({ status: 412, body: { code: 'PRECONDITION_FAILED' } });
    expect((await as('acme', 'PUT', SERVERS, { servers: [] }, { headers: { 'if-match': 'no tag' } })).status).toBe(412);
    const several = { 'if-match': `"other", ${set.headers['etag']}` };
    expect((await as('acme', 'PUT', SERVERS, { servers: ['head-end'] }, { headers: several })).status).toBe(200);
    expect((await as('acme', 'PUT', SERVERS, { servers: ['head-end'] }, { headers: { 'if-match': '*' } })).status).toBe(
      200,
    );
  });

  test('who set them, and when, is on record', () => {
    expect(tenants.gateway.log.lines.findLast(({ event }) => event === 'deskChanged')).toMatchObject({
      ...{ mtcUser: 'acme', what: 'serversSet', servers: ['head-end'] },
      certificate: expect.stringMatching(/^[0-9a-f]+:[0-9a-f]+$/),
    });
  });
});

describe('devices', () => {
  test('are one’s own, by their external identifiers alone, and whether they have an address', async () => {
    const { status, body, text } = await as('acme', 'POST', '/retrieve-devices', {});
    expect(status).toBe(200);
    expect(body).toEqual([
      { device: M1, bound: true },
      { device: M2, bound: false },
      { device: 'pump@site.acme.example', bound: false },
    ]);
    expect(text).not.toMatch(/10\.20\.|49171|26201/);
    expect((await as('rival', 'POST', '/retrieve-devices', {})).body).toEqual([{ device: R1, bound: true }]);
  });

  test('come by pages, each once', async () => {
    const seen: string[] = [];
    let seek: string | undefined;
    for (let pages = 0; pages < 10; pages++) {
      const page = await as('acme', 'POST', '/retrieve-devices', { perPage: 1, ...(seek && { seek }) });
      seen.push(...page.body.map(({ device }: { device: string }) => device));
      seek = page.headers['content-last-key'] as string | undefined;
      expect(page.status).toBe(seek === undefined ? 200 : 206);
      if (seek === undefined) break;
    }
    expect(seen).toEqual([M1, M2, 'pump@site.acme.example']);
  });

  test('a key that is none, that is another tenant’s or of another list, is an error', async () => {
    const pageOf = (user: 'acme' | 'rival', list: string) => as(user, 'POST', list, { perPage: 1 });
    const keyOf = async (user: 'acme' | 'rival', list: string) =>
      String((await pageOf(user, list)).headers['content-last-key']);
    const theirs = await keyOf('rival', '/retrieve-devices');
    const own = await keyOf('acme', '/retrieve-devices');
    const changed = `${own.slice(0, 40)}${own[40] === 'A' ? 'B' : 'A'}${own.slice(41)}`;
    const grants = [await tenants.open('head-end', M1), await tenants.open('head-end', M1, { devicePort: 7001 })];
    const ofGrants = await keyOf('acme', '/retrieve-grants');
    for (const id of grants) await as('acme', 'DELETE', `/grants/${id}`);
    const name = Buffer.from('a@rival.example').toString('base64url');
    for (const seek of ['-', '%', 'AAAA', 'x'.repeat(512), name, theirs, changed, own.slice(0, -4), ofGrants])
      expect((await as('acme', 'POST', '/retrieve-devices', { seek })).body).toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    expect((await as('acme', 'POST', '/retrieve-devices', { seek: own })).status).toBe(200);
    expect((await as('acme', 'POST', '/retrieve-grants', { seek: own })).status).toBe(400);
  });
});

describe('grants on its devices', () => {
  test('are seen without addresses and rules, and end when they are revoked', async () => {
    const id = await tenants.open('head-end', M1);
    const theirs = await tenants.open('head-end', R1);
    const waits = await tenants.open('head-end', M2, { whenUnreachable: 'WAIT', ipFamily: 'IPV4' });
    const { status, body, headers, text } = await as('acme', 'POST', '/retrieve-grants', {});
    expect(status).toBe(200);
    expect(headers['x-total-count']).toBe('2');
    const both = { server: 'head-end', protocol: 'UDP', devicePort: 5683 };
    expect(body).toEqual([
      {
        ...{ grantId: waits, ...both, device: M2, status: 'WAITING' },
        ...{ requestedAt: expect.any(String), waitsUntil: expect.any(String) },
      },
      {
        ...{ grantId: id, ...both, device: M1, status: 'LIVE' },
        ...{ startedAt: '2026-01-01T12:00:00.000Z', expiresAt: '2026-01-01T12:10:00.000Z' },
      },
    ]);
    expect(text).not.toMatch(/\d+\.\d+\.\d+\.\d+|secret-rule|rival/);
    expect((await as('acme', 'POST', '/retrieve-grants', { device: M1 })).body).toEqual([body[1]]);
    expect((await as('acme', 'POST', '/retrieve-grants', { device: R1 })).body).toEqual([]);
    expect((await as('acme', 'POST', '/retrieve-grants', { device: 'gone@meters.example' })).body).toEqual([]);
    expect((await as('acme', 'GET', `/grants/${id}`)).body).toEqual(body[1]);

    const other = await as('acme', 'GET', `/grants/${theirs}`);
    const none = await as('acme', 'GET', '/grants/never-was');
    const bare = ({ instance: _, ...rest }: Record<string, unknown>) => rest;
    expect(other.status).toBe(404);
    expect(bare(other.body)).toEqual(bare(none.body));
    expect(bare((await as('acme', 'DELETE', `/grants/${theirs}`)).body)).toEqual(bare(none.body));
    expect(tenants.gateway.store.find(theirs)?.state).toBe('live');

    expect((await as('acme', 'DELETE', `/grants/${id}`)).status).toBe(204);
    expect(tenants.gateway.store.find(id)).toMatchObject({ state: 'ended', endCause: 'revokedByMtcUser' });
    expect((await as('acme', 'GET', `/grants/${id}`)).body).toMatchObject({
      ...{ status: 'ENDED', endCause: 'REVOKED_BY_MTC_USER' },
    });
    expect((await as('acme', 'DELETE', `/grants/${id}`)).status).toBe(204);
    expect((await as('acme', 'DELETE', `/grants/${waits}`)).status).toBe(204);
    expect(tenants.gateway.store.findWait(waits)).toMatchObject({ state: 'ended', endCause: 'revokedByMtcUser' });
    expect((await as('acme', 'POST', '/retrieve-grants', {})).body).toEqual([]);
    await as('rival', 'DELETE', `/grants/${theirs}`);
  });

  test('come by pages, each once', async () => {
    const opened: string[] = [];
    for (let port = 7000; port < 7005; port++) opened.push(await tenants.open('head-end', M1, { devicePort: port }));
    const theirs = await tenants.open('head-end', R1, { devicePort: 7000 });
    const seen: string[] = [];
    for (let seek: string | undefined, pages = 0; pages < 10; pages++) {
      const page = await as('acme', 'POST', '/retrieve-grants', { perPage: 2, ...(seek && { seek }) });
      seen.push(...page.body.map(({ grantId }: { grantId: string }) => grantId));
      seek = page.headers['content-last-key'] as string | undefined;
      if (seek === undefined) break;
      expect((await as('rival', 'POST', '/retrieve-grants', { seek })).text).not.toContain('meters');
    }
    expect(seen).toEqual(opened);
    expect(seen).not.toContain(theirs);
    for (const id of opened) await as('acme', 'DELETE', `/grants/${id}`);
    await as('rival', 'DELETE', `/grants/${theirs}`);
  });
});

describe('preferences', () => {
  test('are set, seen, replaced and taken back; a server is told that it is unwanted, and no more', async () => {
    const night = { from: '22:00', to: '06:00', zone: 'Europe/Berlin' };
    const set = await as('acme', 'POST', '/preferences', { devices: '*@meters.example', quietHours: night });
    expect(set.status).toBe(201);
    const { preferenceId } = set.body;
    expect(set.headers['location']).toBe(`/mtc-user/v1/preferences/${preferenceId}`);
    const days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
    const kept = { preferenceId, devices: '*@meters.example', setBy: 'MTC_USER', setAt: '2026-01-01T12:00:00.000Z' };
    expect(set.body).toEqual({ ...kept, quietHours: { ...night, days } });
    expect((await as('acme', 'GET', '/preferences')).body).toEqual([set.body]);
    const path = `/preferences/${preferenceId}`;
    expect((await as('acme', 'GET', path)).body).toEqual(set.body);

    for (const method of ['GET', 'DELETE'])
      expect(await as('rival', method, path)).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } });
    const theirs = { devices: '*@rival.example', block: true };
    expect((await as('rival', 'PUT', path, theirs)).status).toBe(404);
    expect((await as('rival', 'GET', '/preferences')).body).toEqual([]);

    const blocked = await as('acme', 'PUT', path, { devices: M1, block: true });
    expect(blocked.body).toEqual({ ...kept, devices: M1, block: true });
    const refused = await tenants.request('head-end', M1);
    expect(refused.body).toEqual({
      type: 'urn:mtgate:problem:permission-denied',
      title: 'The owner of the device does not want this now',
      status: 403,
      instance: expect.any(String),
      code: 'PERMISSION_DENIED',
      cause: 'OPERATION_PROHIBITED',
    });
    expect((await as('acme', 'DELETE', path)).status).toBe(204);
    expect((await as('acme', 'DELETE', path)).status).toBe(404);
    expect((await tenants.request('head-end', M1, { devicePort: 7010 })).status).toBe(201);
  });

  test.each([
    [{ devices: '*@rival.example', block: true }, 403, 'DEVICES_NOT_YOURS'],
    [{ devices: '*@*', block: true }, 403, 'DEVICES_NOT_YOURS'],
    [{ devices: '*@meters.example' }, 400, 'INVALID_ARGUMENT'],
    [{ devices: 'no device', block: true }, 400, 'INVALID_ARGUMENT'],
    [{ devices: M1, block: 'true' }, 400, 'INVALID_ARGUMENT'],
    [{ devices: M1, block: true, more: 1 }, 400, 'INVALID_ARGUMENT'],
    [{ devices: M1, grantsPerDay: { grants: 0, zone: 'UTC' } }, 400, 'INVALID_ARGUMENT'],
    [{ devices: M1, grantsPerDay: { grants: 1, zone: 'Moon' } }, 400, 'INVALID_ARGUMENT'],
    [{ devices: M1, quietHours: { from: '22:00', to: '22:00', zone: 'UTC' } }, 400, 'INVALID_ARGUMENT'],
    [{ devices: M1, quietHours: { from: '22:00', to: '06:00' } }, 400, 'INVALID_ARGUMENT'],
  ])('%j: %i %s, and nothing changes', async (preference, status, code) => {
    expect(await as('acme', 'POST', '/preferences', preference)).toMatchObject({ status, body: { code } });
    expect((await as('acme', 'GET', '/preferences')).body).toEqual([]);
  });
});
