/** The API over real TLS: the good path, and every bad input with the answer it gets. */
import https from 'node:https';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { RefusalReason } from '../../agent/core/refusals.ts';
import { ApiFixture, BASE, GOOD, GRANTS } from './api-fixture.ts';

const api = new ApiFixture();
beforeAll(() => api.start());
afterAll(() => api.stop());
beforeEach(() => {
  api.aheadMs += 1_000; // so that no test has spent the next one's log lines of a second
  api.lines.splice(0);
});

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const post = (body: unknown, more = {}) => api.ask({ method: 'POST', body, ...more });
let port = 10_000;
const fresh = (over = {}) => ({ ...GOOD, devicePort: port++, ...over });

describe('a grant from asking to giving back', () => {
  it('is created, shown, listed, ended', async () => {
    const created = await post(fresh(), { headers: { 'x-correlator': 'abc-1' } });
    expect(created.status).toBe(201);
    expect(created.headers['location']).toBe(`${GRANTS}/${created.body.grantId}`);
    expect(created.headers['x-correlator']).toBe('abc-1');
    expect(created.headers['cache-control']).toBe('no-store');
    expect(created.headers['server'] ?? created.headers['x-powered-by']).toBeUndefined();
    expect(created.body).toMatchObject({
      device: GOOD.device,
      externalEndpoint: { address: '203.0.113.20', port: 34_117 },
      applicationServer: { address: '127.0.0.1' },
      protocol: 'UDP',
      ipFamily: 'IPV4',
      status: 'LIVE',
      limits: { packetsPerSecond: 50, bytes: 10_000_000 },
    });
    const path = `${GRANTS}/${created.body.grantId}`;
    expect((await api.ask({ path })).body).toEqual(created.body);
    const listed = await post({ device: GOOD.device }, { path: `${BASE}/retrieve-grants` });
    expect(listed.body).toContainEqual(created.body);
    const deleted = await api.ask({ method: 'DELETE', path });
    expect([deleted.status, deleted.text]).toEqual([204, '']);
    expect((await api.ask({ method: 'DELETE', path })).status).toBe(204);
    expect((await api.ask({ path })).body).toMatchObject({ status: 'ENDED', endCause: 'ENDED_BY_SERVER' });
  });

  it('that waits is accepted, shown and listed as such, and has no external endpoint', async () => {
    const device = { networkAccessIdentifier: 'm3@meters.acme.example' };
    expect(await post(fresh({ device }))).toMatchObject({ status: 409, body: { code: 'DEVICE_UNREACHABLE' } });
    const accepted = await post(fresh({ device, whenUnreachable: 'WAIT', waitSeconds: 60 }));
    expect(accepted.status).toBe(202);
    const { grantId, requestedAt, waitsUntil, devicePort, ...rest } = accepted.body;
    expect(accepted.headers['location']).toBe(`${GRANTS}/${grantId}`);
    expect(Date.parse(waitsUntil) - Date.parse(requestedAt)).toBe(60_000);
    expect(devicePort).toBe(port - 1);
    const applicationServer = { address: '127.0.0.1' };
    expect(rest).toEqual({ device, applicationServer, protocol: 'UDP', ipFamily: 'IPV4', status: 'WAITING' });
    const path = `${GRANTS}/${grantId}`;
    expect((await api.ask({ path })).body).toEqual(accepted.body);
    const list = { path: `${BASE}/retrieve-grants` };
    expect((await post({}, list)).body).toContainEqual(accepted.body);
    const unbounded = await post(fresh({ device, whenUnreachable: 'WAIT' }));
    expect(Date.parse(unbounded.body.waitsUntil) - Date.parse(unbounded.body.requestedAt)).toBe(3_600_000);

    for (const id of [grantId, unbounded.body.grantId])
      expect((await api.ask({ method: 'DELETE', path: `${GRANTS}/${id}` })).status).toBe(204);
    // Refused for its hours, it is told no more than whoever asks is.
    expect((await api.ask({ path })).body).toMatchObject({
      status: 'ENDED',
      endCause: 'PERMISSION_DENIED',
      waitsUntil,
    });
    expect((await post({}, list)).body).not.toContainEqual(accepted.body);
  });

  it('lists by pages: 206 and a key while more follow, 200 at the end', async () => {
    for (let i = 0; i < 3; i++) await post(fresh());
    const list = (body: object) => post(body, { path: `${BASE}/retrieve-grants` });
    const all = await list({});
    expect([all.status, all.headers['content-last-key']]).toEqual([200, undefined]);
    expect(all.headers['x-total-count']).toBe(String(all.body.length));
    const read: unknown[] = [];
    let page = await list({ perPage: 2 });
    for (; page.status === 206; page = await list({ perPage: 2, seek: page.headers['content-last-key'] })) {
      expect(page.body).toHaveLength(2);
      expect(page.headers['x-total-count']).toBe(String(all.body.length));
      read.push(...page.body);
    }
    expect(page.status).toBe(200);
    expect([...read, ...page.body]).toEqual(all.body);
    for (const body of [
      { perPage: 0 },
      { perPage: 1001 },
      { perPage: '2' },
      { seek: '' },
      { page: 1 },
      { seek: 'no key' },
    ])
      expect([(await list(body)).status, (await list(body)).body.code]).toEqual([400, 'INVALID_ARGUMENT']);
  });

  it('repeats the identifier that was used', async () => {
    const created = await post(fresh({ device: { phoneNumber: '+12025550142' } }));
    expect(created.body.device).toEqual({ phoneNumber: '+12025550142' });
  });

  it('narrows to a named application server', async () => {
    const applicationServer = { address: '2001:db8:51:0::1', port: 4000 };
    const created = await post(fresh({ applicationServer, protocol: 'TCP' }));
    expect(created.body.applicationServer).toEqual({ address: '2001:db8:51::1', port: 4000 });
    expect((await post(fresh({ applicationServer: { address: 'all' } }))).body.applicationServer).toEqual({
      address: 'all',
    });
  });

  it('tells the limits', async () => {
    const limits = await api.ask({ path: `${BASE}/limits` });
    expect(limits.status).toBe(200);
    expect(limits.body).toMatchObject({
      sources: ['127.0.0.0/8', '2001:db8:51::/48'],
      maxDurationSeconds: 900,
      generation: 'g1',
    });
    expect(Math.abs(Date.parse(limits.body.now) - api.clock.nowMs())).toBeLessThan(5_000);
    expect(limits.body).not.toHaveProperty('grantsPerServer');
  });
});

describe('bad input', () => {
  const deep = '['.repeat(8_000) + ']'.repeat(8_000);
  const json = (over: object, drop?: string) =>
    JSON.stringify(Object.fromEntries(Object.entries({ ...GOOD, ...over }).filter(([key]) => key !== drop)));
  const cases: [string, string, string][] = [
    ['malformed JSON', '{"device": ', 'invalidArgument'],
    ['an empty body', '', 'invalidArgument'],
    ['not a number', json({}).replace('600', 'NaN'), 'invalidArgument'],
    ['a number beyond all numbers', json({}).replace('600', '1e400'), 'invalidArgument'],
    ['an array', '[]', 'invalidArgument'],
    ['null', 'null', 'invalidArgument'],
    ['nesting thousands deep', json({}).replace('600', deep.slice(0, 8_000) + deep.slice(-8_000)), 'invalidArgument'],
    ['nesting thousands deep at the top', deep, 'invalidArgument'],
    ['__proto__', `{"__proto__": {"x": 1}, ${json({}).slice(1)}`, 'invalidArgument'],
    ['constructor.prototype', `{"constructor": {"prototype": {}}, ${json({}).slice(1)}`, 'invalidArgument'],
    ['an unknown field', json({ priority: 1 }), 'invalidArgument'],
    ['an unknown field of device', json({ device: { ...GOOD.device, ipv4Address: '192.0.2.1' } }), 'invalidArgument'],
    ['a number as text', json({ devicePort: '5683' }), 'invalidArgument'],
    ['text as a number', json({ protocol: 17 }), 'invalidArgument'],
    ['a value in an array', json({ protocol: ['UDP'] }), 'invalidArgument'],
    ['lower-case protocol', json({ protocol: 'udp' }), 'invalidArgument'],
    ['another protocol', json({ protocol: 'SCTP' }), 'invalidArgument'],
    ['port 0', json({ devicePort: 0 }), 'invalidArgument'],
    ['port 65536', json({ devicePort: 65_536 }), 'invalidArgument'],
    ['port and a half', json({ devicePort: 5683.5 }), 'invalidArgument'],
    ['duration 0', json({ durationSeconds: 0 }), 'invalidArgument'],
    ['a negative duration', json({ durationSeconds: -1 }), 'invalidArgument'],
    ['a duration beyond all clocks', json({ durationSeconds: 1e300 }), 'invalidArgument'],
    ['no duration', json({}, 'durationSeconds'), 'invalidArgument'],
    ['no device', json({}, 'device'), 'invalidArgument'],
    ['an empty device', json({ device: {} }), 'invalidArgument'],
    ['two identifiers', json({ device: { ...GOOD.device, phoneNumber: '+12025550142' } }), 'invalidArgument'],
    ['an identifier without a domain', json({ device: { networkAccessIdentifier: 'm1' } }), 'invalidArgument'],
    ['a phone number without plus', json({ device: { phoneNumber: '12025550142' } }), 'invalidArgument'],
    ['application server port 0', json({ applicationServer: { address: '192.0.2.1', port: 0 } }), 'invalidArgument'],
    ['an application server by name', json({ applicationServer: { address: 'as.example' } }), 'invalidArgument'],
    ['an octal address', json({ applicationServer: { address: '192.0.2.010' } }), 'invalidArgument'],
    ['an unknown family', json({ ipFamily: 'IPV5' }), 'invalidArgument'],
    ['a sink that is none of its own', json({ sink: 'https://as.example/' }), 'sinkNotAllowed'],
    ['waitSeconds without WAIT', json({ waitSeconds: 60 }), 'invalidArgument'],
    ['waiting for no time', json({ whenUnreachable: 'WAIT', waitSeconds: 0 }), 'invalidArgument'],
    ['waiting for more than a day', json({ whenUnreachable: 'WAIT', waitSeconds: 86_401 }), 'invalidArgument'],
    ['a trigger without SEND_TRIGGER', json({ whenUnreachable: 'WAIT', trigger: {} }), 'invalidArgument'],
    [
      'a trigger to no port',
      json({ whenUnreachable: 'SEND_TRIGGER', trigger: { applicationPortId: 0 } }),
      'invalidArgument',
    ],
    [
      'a trigger with a payload that is no base64',
      json({ whenUnreachable: 'SEND_TRIGGER', trigger: { triggerPayload: 'd2FrZQ=a' } }),
      'triggerPayloadInvalid',
    ],
    [
      'a trigger with a payload beyond a datagram',
      json({ whenUnreachable: 'SEND_TRIGGER', trigger: { triggerPayload: 'A'.repeat(1372) } }),
      'invalidArgument',
    ],
    ['a body too large', json({ sink: 'x'.repeat(20_000) }), 'bodyTooLarge'],
    ['an unknown device', json({ device: { networkAccessIdentifier: 'm9@meters.acme.example' } }), 'deviceUnknown'],
    [
      'a foreign device',
      json({ device: { networkAccessIdentifier: 'm2@meters.acme.example' } }),
      'notAuthorisedByMtcUser',
    ],
  ];
  const faces: Record<string, [number, string]> = {
    invalidArgument: [400, 'INVALID_ARGUMENT'],
    triggerPayloadInvalid: [400, 'INVALID_ARGUMENT'],
    sinkNotAllowed: [422, 'INVALID_SINK'],
    bodyTooLarge: [413, 'INVALID_ARGUMENT'],
    deviceUnknown: [404, 'IDENTIFIER_NOT_FOUND'],
    notAuthorisedByMtcUser: [404, 'IDENTIFIER_NOT_FOUND'],
  };
  it.each(cases)('%s', async (_what, body, reason) => {
    const answered = await post(body);
    expect(answered.headers['content-type']).toBe('application/problem+json');
    expect([answered.status, answered.body.code]).toEqual(faces[reason]);
    expect(answered.body.status).toBe(answered.status);
    expect(answered.body.instance).toMatch(
      /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    const line = await api.line('refused', { reason });
    expect(line).toMatchObject({ instance: answered.body.instance, step: expect.any(String), why: expect.any(String) });
  });

  it('says where the contract is broken', async () => {
    expect((await post(fresh({ devicePort: 0 }))).body.detail).toBe('body/devicePort must be >= 1');
    expect((await post(fresh({ priority: 1 }))).body.detail).toBe(
      'body must NOT have additional properties ("priority")',
    );
    expect((await post(fresh({ protocol: 'udp' }))).body.detail).toContain('(TCP, UDP)');
  });

  it('answers unknown and foreign devices alike, to the byte', async () => {
    const of = async (id: string) => {
      const { text, headers } = await post(fresh({ device: { networkAccessIdentifier: id } }));
      const { date: _, 'x-correlator': __, ...rest } = headers;
      return { text: text.replace(/urn:uuid:[0-9a-f-]+/, ''), rest };
    };
    expect(await of('m9@meters.acme.example')).toEqual(await of('m2@meters.acme.example'));
  });

  it("answers for another server's grant as for none, to the byte", async () => {
    const created = await post(fresh());
    const of = async (method: string, id: string) => {
      const { status, text } = await api.ask({ method, path: `${GRANTS}/${id}`, client: api.clients.beta });
      return [status, text.replace(/urn:uuid:[0-9a-f-]+/, '')];
    };
    for (const method of ['GET', 'DELETE']) {
      const foreign = await of(method, created.body.grantId);
      expect(foreign[0]).toBe(404);
      expect(foreign).toEqual(await of(method, '01JZZZZZZZZZZZZZZZZZZZZZZZ'));
    }
    const listed = await post({}, { path: `${BASE}/retrieve-grants`, client: api.clients.beta });
    expect(listed.body).toEqual([]);
    expect((await api.ask({ path: `${GRANTS}/${created.body.grantId}` })).body.status).toBe('LIVE');
  });

  it('names the grant that lives already', async () => {
    const body = fresh();
    const { grantId } = (await post(body)).body;
    const again = await post(body);
    expect(again.status).toBe(409);
    expect(again.body).toMatchObject({ code: 'ALREADY_EXISTS', grantId });
  });

  it.each([
    ['no duration', {}],
    ['duration 0', { durationSeconds: 0 }],
    ['an unknown field', { durationSeconds: 60, devicePort: 1 }],
  ])('extend: %s', async (_, body) => {
    const answered = await post(body, { path: `${GRANTS}/01JZZZZZZZZZZZZZZZZZZZZZZZ/extend` });
    expect([answered.status, answered.body.code]).toEqual([400, 'INVALID_ARGUMENT']);
  });

  it.each([
    ['nothing', ''],
    ['nothing in quotes', '""'],
    ['one quote', '"abc'],
    ['a space', 'a b'],
    ['two keys', 'abc, def'],
    ['a parameter', '"abc";x=1'],
    ['letters beyond ASCII', 'cl\u00e9'],
    ['256 characters', 'k'.repeat(256)],
  ])('an Idempotency-Key of %s', async (_, key) => {
    const answered = await post(fresh(), { headers: { 'idempotency-key': key } });
    expect([answered.status, answered.body.code]).toEqual([400, 'INVALID_ARGUMENT']);
    expect(answered.body.detail).toContain('headers/idempotency-key');
  });
});

describe('an extension', () => {
  it('moves the end, and tells the grant', async () => {
    const { body } = await post(fresh({ durationSeconds: 60 }));
    const path = `${GRANTS}/${body.grantId}`;
    const extended = await post({ durationSeconds: 600 }, { path: `${path}/extend` });
    expect(extended.status).toBe(200);
    expect(extended.body).toEqual({ ...body, expiresAt: extended.body.expiresAt });
    expect(Date.parse(extended.body.expiresAt) - Date.parse(body.expiresAt)).toBeGreaterThan(500_000);
    expect((await api.ask({ path })).body).toEqual(extended.body);
  });

  it('of a grant that has ended names the cause; of none, or of another server, says the same', async () => {
    const { body } = await post(fresh());
    const path = `${GRANTS}/${body.grantId}`;
    const foreign = await post({ durationSeconds: 60 }, { path: `${path}/extend`, client: api.clients.beta });
    const none = await post({ durationSeconds: 60 }, { path: `${GRANTS}/01JZZZZZZZZZZZZZZZZZZZZZZZ/extend` });
    const bare = ({ text }: { text: string }) => text.replace(/urn:uuid:[0-9a-f-]+/, '');
    expect([foreign.status, foreign.body.code]).toEqual([404, 'NOT_FOUND']);
    expect(bare(none)).toBe(bare(foreign));
    await api.ask({ method: 'DELETE', path });
    const ended = await post({ durationSeconds: 60 }, { path: `${path}/extend` });
    expect(ended.status).toBe(409);
    expect(ended.body).toMatchObject({ code: 'GRANT_ENDED', endCause: 'ENDED_BY_SERVER' });
  });
});

describe('what a request carries beside its body', () => {
  it('a mark is made where none is given, and stands in the answer and in the line of its refusal', async () => {
    const refused = await post(fresh({ devicePort: 0 }));
    const mark = refused.headers['x-correlator'];
    expect(mark).toMatch(UUID);
    expect(await api.line('refused', { correlator: mark })).toMatchObject({ instance: refused.body.instance });
    const granted = await post(fresh());
    expect(granted.headers['x-correlator']).toMatch(UUID);
    expect(api.asked.at(-1)).toMatchObject({ correlator: granted.headers['x-correlator'] });
    for (const path of ['/nowhere', `${GRANTS}/%zz`]) {
      expect((await api.ask({ path })).headers['x-correlator']).toMatch(UUID);
    }
  });

  it('the key of a request that may be sent again is the same with quotes and without', async () => {
    for (const key of ['"8e03978e-40d5"', '8e03978e-40d5']) {
      expect((await post(fresh(), { headers: { 'idempotency-key': key } })).status).toBe(201);
      expect(api.asked.at(-1)).toMatchObject({ idempotencyKey: '8e03978e-40d5' });
    }
    await post(fresh());
    expect(api.asked.at(-1)).not.toHaveProperty('idempotencyKey');
  });
});

describe('when to ask again', () => {
  const afterRefusal = async (reason: RefusalReason, retryAfterSeconds?: number) => {
    const request = api.grants.request;
    api.grants.request = async () =>
      api.refuse(reason, { why: 'a test', ...(retryAfterSeconds && { retryAfterSeconds }) });
    const answered = await post(fresh());
    api.grants.request = request;
    return [answered.status, answered.headers['retry-after']];
  };

  it('is told where it is known, by the refusal or by its kind', async () => {
    expect(await afterRefusal('rateExceeded', 17)).toEqual([429, '17']);
    expect(await afterRefusal('endpointsExhausted', 120)).toEqual([503, '120']);
    expect(await afterRefusal('gatewayNotReady')).toEqual([503, '5']);
    expect(await afterRefusal('changedWhileDeciding')).toEqual([409, '1']);
    expect(await afterRefusal('idempotencyKeyInUse')).toEqual([409, '1']);
    expect(await afterRefusal('grantsPerDeviceExceeded')).toEqual([429, undefined]);
  });
});

describe('where a request goes', () => {
  const refused = async (ask: Parameters<typeof api.ask>[0], status: number, code: string) => {
    const answered = await api.ask(ask);
    expect(answered.status).toBe(status);
    if (ask.method !== 'HEAD') expect(answered.body).toMatchObject({ status, code });
    return answered;
  };

  it.each(['/', '/grants', `${GRANTS}/`, `${GRANTS}/a/b`, `${BASE}/Grants`, `${GRANTS}/a/extend/`])(
    'no path %s',
    async (path) => {
      await refused({ path }, 404, 'NOT_FOUND');
    },
  );
  it.each(['HEAD', 'OPTIONS', 'TRACE', 'PUT', 'PATCH', 'DELETE', 'PROPFIND'])('%s of /grants', async (method) => {
    const answered = await refused({ method }, 405, 'METHOD_NOT_ALLOWED');
    expect(answered.headers['allow']).toBe('POST');
  });
  it('a wrong method with a body', async () => {
    await refused({ method: 'PUT', body: '{' }, 405, 'METHOD_NOT_ALLOWED');
  });
  it('allows what a grant has', async () => {
    const answered = await refused({ method: 'POST', path: `${GRANTS}/x`, body: {} }, 405, 'METHOD_NOT_ALLOWED');
    expect(answered.headers['allow']).toBe('GET, DELETE');
  });
  it('an unknown query', async () => {
    await refused({ path: `${BASE}/limits?verbose=1` }, 400, 'INVALID_ARGUMENT');
  });
  it('a path that cannot be read', async () => {
    await refused({ path: `${GRANTS}/%zz` }, 400, 'INVALID_ARGUMENT');
  });
  it('a path parameter without end', async () => {
    await refused({ path: `${GRANTS}/${'a'.repeat(300)}` }, 400, 'INVALID_ARGUMENT');
  });
  it('a mark against its pattern', async () => {
    const answered = await refused(
      { path: `${BASE}/limits`, headers: { 'x-correlator': 'a b' } },
      400,
      'INVALID_ARGUMENT',
    );
    expect(answered.headers['x-correlator']).toMatch(UUID);
  });
  it.each(['text/plain', 'application/xml', 'application/jsonx', 'multipart/form-data'])('type %s', async (type) => {
    const headers = { 'content-type': type };
    await refused({ method: 'POST', body: JSON.stringify(GOOD), headers }, 415, 'UNSUPPORTED_MEDIA_TYPE');
  });
  it('no body and no type', async () => {
    await refused({ method: 'POST', headers: { 'content-length': '0' } }, 400, 'INVALID_ARGUMENT');
  });
});

describe('faults', () => {
  it('answer 500 without a word of why, and log it', async () => {
    const whole = new ApiFixture(api);
    whole.grants.limits = () => {
      throw new Error('secret 10.0.0.1');
    };
    try {
      await whole.start();
      const answered = await whole.ask({ path: `${BASE}/limits` });
      expect(answered.status).toBe(500);
      expect(answered.headers['content-type']).toBe('application/problem+json');
      expect(answered.body).toMatchObject({ code: 'INTERNAL', status: 500 });
      expect(answered.text).not.toMatch(/secret|10\.0|stack|Error:/);
      expect(await whole.line('requestFailed')).toMatchObject({
        code: 'internal',
        instance: answered.body.instance,
        level: 'error',
      });
    } finally {
      await whole.server.close();
    }
  });

  it('in judging who asks, too, end nothing but the request, or the connection that it would have been', async () => {
    const whole = new ApiFixture(api);
    const before = new https.Agent({ keepAlive: true, maxSockets: 1 });
    try {
      await whole.start();
      expect((await whole.ask({ path: `${BASE}/limits`, agent: before })).status).toBe(200);
      Object.defineProperty(whole, 'aheadMs', {
        configurable: true,
        get() {
          throw new Error('no clock');
        },
      });
      for (const path of [`${BASE}/limits`, `${GRANTS}/%zz`])
        expect((await whole.ask({ path, agent: before })).status).toBe(500);
      await expect(whole.ask({ path: `${BASE}/limits` })).rejects.toMatchObject({ code: 'ECONNRESET' });
      expect(await whole.line('identificationFailed')).toMatchObject({ level: 'error', remote: '127.0.0.1' });
      Object.defineProperty(whole, 'aheadMs', { value: 0 });
      expect((await whole.ask({ path: `${BASE}/limits` })).status).toBe(200);
    } finally {
      before.destroy();
      await whole.server.close();
    }
  });
});
