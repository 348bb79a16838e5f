/** What an MTC user may see of who was turned away: of its own devices, member by member, and nothing else. */
import type { IncomingMessage } from 'node:http';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import type { ExternalId, GrantId, MtcUserName } from '../../agent/core/words.ts';
import type { Denial, DenialFacts } from '../../agent/inspector/denials.ts';
import { byChange, csvOf, placeOf, type Report, readPlace, reportOf } from '../../agent/reports/reports.ts';
import { M1, R1, Tenants } from '../mtc-user.ts';

const ACME = 'acme' as MtcUserName;
const RIVAL = 'rival' as MtcUserName;
const INNER = '10.20.0.2';
const SPACES = {
  isInner: ({ text }: { text: string }) => text.startsWith('10.20.'),
  isExternal: ({ text }: { text: string }) => text.startsWith('203.0.113.'),
};
const PACKET: DenialFacts = {
  kind: 'packet',
  reason: 'wrongSource',
  source: '192.0.2.66',
  sourcePort: 40_000,
  target: 'udp 203.0.113.1:20001',
  mtcUser: ACME,
  device: M1,
  grant: 'G1' as GrantId,
};
const REQUEST: DenialFacts = {
  kind: 'request',
  reason: 'noRuleAllows',
  source: '198.51.100.10',
  sourcePort: 50_000,
  target: 'tcp/23',
  server: 'head-end',
  mtcUser: ACME,
  device: '+491715550100',
  externalId: M1,
  certificate: 'c0ffee',
};
const row = (facts: DenialFacts): Denial => ({ ...facts, id: 'row-1', firstMs: 1_000, lastMs: 2_000, count: 3 });
const report = (facts: DenialFacts, user = ACME) => reportOf(row(facts), user, SPACES);

describe('a report', () => {
  test('of a packet has these members', () =>
    expect(report(PACKET)).toEqual({
      ...{ id: 'row-1', kind: 'denial', reason: 'wrongSource', firstSeenMs: 1_000, lastSeenMs: 2_000, count: 3 },
      source: { address: '192.0.2.66', port: 40_000 },
      ...{ fromInside: false, proven: 'none', protocol: 'udp', device: M1, grantId: 'G1' },
      externalEndpoint: { address: '203.0.113.1', port: 20_001 },
    }));

  test('of a request has these: its device by its external identifier, however it was named', () =>
    expect(report(REQUEST)).toEqual({
      ...{ id: 'row-1', kind: 'refusal', reason: 'noRuleAllows', firstSeenMs: 1_000, lastSeenMs: 2_000, count: 3 },
      source: { address: '198.51.100.10', port: 50_000 },
      ...{ fromInside: false, proven: 'tls', protocol: 'tcp', devicePort: 23, device: M1 },
      ...{ server: 'head-end', certificate: 'c0ffee' },
    }));

  test.each([
    ['of another MTC user', { mtcUser: RIVAL }],
    ['of nobody', { mtcUser: undefined }],
    ['without a device', { device: undefined }],
    ['of rolled-up ones', { source: '*' }],
    ['of a handshake', { kind: 'handshake' }],
  ] as const)('is none of a row %s', (_what, changes) =>
    expect(report({ ...PACKET, ...changes } as DenialFacts)).toBeUndefined(),
  );

  test('of a packet from another device says that, and not from where', () => {
    const told = report({ ...PACKET, source: INNER });
    expect(told).toMatchObject({ fromInside: true, proven: 'none' });
    expect(told).not.toHaveProperty('source');
  });

  test('of a packet to a trigger port says the port, and not the inner address', () => {
    const told = report({ ...PACKET, target: `udp ${INNER}:5683` });
    expect(told).toMatchObject({ protocol: 'udp', devicePort: 5683 });
    expect(told).not.toHaveProperty('externalEndpoint');
  });

  const SECRET = 'operators-own';
  test('never holds an inner address, a rule, or what is another tenant’s, whatever the row', () => {
    const text = fc.oneof(
      fc.constantFrom(INNER, '192.0.2.1', 'unknown', '*', `udp ${INNER}:1`, 'udp 203.0.113.1:9', 'udp/5683', R1, M1),
      fc.string(),
    );
    const facts = fc.record({
      kind: fc.constantFrom('packet', 'request', 'handshake'),
      reason: fc.constantFrom('deviceToDevice', 'filtered', 'noRuleAllows'),
      source: text,
      target: fc.oneof(fc.constantFrom(`icmp ${INNER} type 8`, `GET /grants/${INNER}`, `ip ${INNER}`), text),
      mtcUser: fc.constantFrom('acme', 'rival', undefined),
      device: fc.constantFrom(M1, '+491715550100', `${INNER}`, undefined),
      externalId: fc.constantFrom(M1, undefined),
      rule: fc.constant(SECRET),
      server: fc.constantFrom('head-end', undefined),
    });
    fc.assert(
      fc.property(facts, (one) => {
        const told = report(one as unknown as DenialFacts);
        if (one.mtcUser !== 'acme') expect(told).toBeUndefined();
        const written = JSON.stringify(told ?? {});
        for (const never of [INNER, SECRET, R1, '+491715550100']) expect(written).not.toContain(never);
      }),
      { numRuns: 500 },
    );
  });
});

describe('the order of reports', () => {
  const at = (lastSeenMs: number, id: string) => ({ lastSeenMs, id }) as Report;
  test('puts what changed last at the end, and a place in it is found again', () => {
    const all = [at(1, 'b'), at(1, 'a'), at(9, 'a'), at(1_790_000_000_000, '0f3e-12')].sort(byChange);
    expect(all.map(placeOf)).toEqual(['1-a', '1-b', '9-a', expect.stringMatching(/^[0-9a-z]{8}-0f3e-12$/)]);
    for (const [i, one] of all.entries()) {
      const behind = readPlace(placeOf(one));
      expect(all.filter((other) => (behind?.(other) ?? 0) > 0)).toEqual(all.slice(i + 1));
    }
    expect(all.filter((other) => (readPlace('0-')?.(other) ?? 0) > 0)).toEqual(all);
  });
  test.each(['', 'x', '1', 'A-b', '1-<', '../1-a', `1-${'a'.repeat(41)}`])('has no place "%s"', (text) =>
    expect(readPlace(text)).toBeUndefined(),
  );
});

test('a table quotes what must be quoted, and disarms formulas', () => {
  const device = '=cmd|"x",y@meters.example' as ExternalId;
  const told = report({ ...PACKET, device });
  const [header, line, end] = csvOf(told ? [told] : []).split('\r\n');
  expect(header).toBe(
    'firstSeen,lastSeen,kind,reason,count,sourceAddress,sourcePort,fromInside,proven,' +
      'protocol,externalAddress,externalPort,devicePort,device,grantId,server,certificate,id',
  );
  expect(line).toBe(
    '1970-01-01T00:00:01.000Z,1970-01-01T00:00:02.000Z,denial,wrongSource,3,192.0.2.66,40000,false,none,' +
      `udp,203.0.113.1,20001,,"'=cmd|""x"",y@meters.example",G1,,,row-1`,
  );
  expect(end).toBe('');
});

describe('the API of reports', () => {
  let tenants: Tenants;
  const list = async (user: 'acme' | 'rival', query = '') => {
    const { status, body } = await tenants.as(user, 'GET', `/reports${query}`);
    return { status, ...(body as unknown as { reports: Report[]; total: number; lastKey?: string; code?: string }) };
  };
  beforeAll(async () => {
    tenants = new Tenants();
    await tenants.start();
    for (let i = 0; i < 5; i++) {
      tenants.denials.add({ ...PACKET, source: `192.0.2.${i}` });
      tenants.gateway.clock.pass(1);
    }
    tenants.denials.add({ ...PACKET, mtcUser: RIVAL, device: R1 });
    tenants.denials.add({ ...PACKET, mtcUser: undefined as never, device: undefined as never });
    tenants.denials.count('request', 'rateExceeded', ACME);
  });
  afterAll(() => tenants.stop());

  test('gives each its own, the newest first, by pages', async () => {
    const first = await list('acme', '?perPage=2');
    expect(first).toMatchObject({
      ...{
        status: 200,
        total: 5,
        reports: [{ source: { address: '192.0.2.4' } }, { source: { address: '192.0.2.3' } }],
      },
      rolledUp: [{ kind: 'refusal', reason: 'rateExceeded', count: 1 }],
      unseenOfAllUsers: { since: '1970-01-01T00:00:00.000Z', unsampledPackets: 4, lostPackets: 3 },
    });
    const second = await list('acme', `?perPage=3&seek=${first.lastKey}`);
    expect(second.reports.map(({ source }) => source?.address)).toEqual(['192.0.2.2', '192.0.2.1', '192.0.2.0']);
    expect(second).not.toHaveProperty('lastKey');
    expect(await list('rival')).toMatchObject({ total: 1, reports: [{ device: R1 }] });
  });

  test('filters', async () => {
    const at = new Date(tenants.gateway.clock.utcMs - 2_500).toISOString();
    expect((await list('acme', `?since=${at}`)).total).toBe(2);
    expect((await list('acme', `?until=${at}`)).total).toBe(3);
    expect((await list('acme', '?reason=noGrant')).total).toBe(0);
    expect((await list('acme', `?device=${R1}`)).total).toBe(0);
  });

  test.each([
    'perPage=0',
    'perPage=1001',
    'seek=%00',
    'since=today',
    'since=2026-02-30T00:00:00Z',
    'until=2026-11-31T00:00:00.5Z',
    'until=2026-11-30T00:00Z',
    'device=10.20.0.2',
    'mtcUser=rival',
    'since=1&since=2',
  ])('refuses ?%s', async (query) =>
    expect(await list('acme', `?${query}`)).toMatchObject({ status: 400, code: 'INVALID_ARGUMENT' }),
  );

  test('has a table of each day, also of one without reports', async () => {
    const day = new Date(tenants.gateway.clock.utcMs).toISOString().slice(0, 10);
    const { status, headers, text } = await tenants.as('rival', 'GET', `/reports/by-day/${day}`);
    expect(status).toBe(200);
    expect(headers['content-type']).toBe('text/csv; charset=utf-8; header=present');
    expect(text?.trim().split('\r\n')).toHaveLength(2);
    const empty = await tenants.as('rival', 'GET', '/reports/by-day/2020-02-29');
    expect(empty.text?.trim().split('\r\n')).toHaveLength(1);
    expect((await tenants.as('rival', 'GET', '/reports/by-day/2021-02-29')).status).toBe(400);
  });

  test('says that there is no key where nothing is pushed', async () => {
    expect((await tenants.as('acme', 'GET', '/signing-key')).status).toBe(404);
  });

  test('streams what is its own, from where the reader left off, to as many readers as it may have', async () => {
    const readers = Array.from({ length: 20 }, () => open(tenants, '0-'));
    await Promise.all(readers.map((reader) => reader.until((text) => text.split('event: report').length === 6)));
    tenants.denials.add({ ...PACKET, source: '192.0.2.99' });
    tenants.denials.add({ ...PACKET, mtcUser: RIVAL, device: R1, source: '192.0.2.98' });
    await Promise.all(readers.map((reader) => reader.until((text) => text.includes('192.0.2.99'))));
    for (const reader of readers) {
      expect(reader.text()).not.toContain('192.0.2.98');
      expect(reader.text()).not.toContain(R1);
    }
    const [first] = readers;
    const ids = [...(first?.text() ?? '').matchAll(/^id: (.*)$/gm)].map(([, id]) => id);
    const late = open(tenants, String(ids.at(-2)));
    await late.until((text) => text.includes('192.0.2.99'));
    expect(late.text().split('event: report')).toHaveLength(2);
    for (const reader of [...readers, late]) reader.close();
  });

  test('cuts a reader that does not keep up, and holds up nobody', async () => {
    const slow = open(tenants, '0-');
    await slow.until((text) => text.includes('event: report'));
    slow.stall();
    const quick = open(tenants);
    await quick.until((text) => text.includes('retry:'));
    const closed = slow.closed();
    for (let round = 0; round < 40; round++) {
      for (let i = 0; i < 1_000; i++)
        tenants.denials.add({ ...PACKET, source: address(`198.18.${i >> 8}.${i & 255}`).text });
      await new Promise((resolve) => setTimeout(resolve, 210)); // the rhythm in which reports are told
      if (tenants.cuts > 0) break;
    }
    expect(tenants.cuts).toBe(1);
    quick.close();
    slow.close();
    await closed;
  });
});

/** A reader of the stream of acme's. */
function open(tenants: Tenants, lastEventId?: string) {
  let text = '';
  let heard = () => {};
  const headers = lastEventId === undefined ? {} : { 'last-event-id': lastEventId };
  const { request, opened } = tenants.stream('acme', '/reports/stream', headers);
  let response: IncomingMessage | undefined;
  opened.then((one) => {
    response = one;
    one.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      heard();
    });
    one.on('error', () => {});
  });
  return {
    text: () => text,
    until: (found: (text: string) => boolean) =>
      new Promise<void>((resolve) => {
        heard = () => {
          if (found(text)) resolve();
        };
        heard();
      }),
    stall: () => void response?.pause(),
    closed: () => new Promise<void>((resolve) => request.once('close', () => resolve())),
    close: () => request.destroy(),
  };
}
