/**
 * The live grants against a twin that is plain to see right: a list of records,
 * searched from one end to the other for every question. And their pages, read
 * while the list changes.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { LiveGrants, type Mark } from '../../agent/grants/live.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { grantRecord } from '../records.ts';

const SECOND = 1_000_000_000n;
const SERVERS = ['head-end', 'other', 'third'];
const INNERS = ['10.20.0.2', '10.20.0.3', 'fd00:20::2'];
const REMOTES = ['198.51.100.10', '2001:db8:51::10', 'all'];
const IDS = [
  '01JZ8Q4X9T5E2V7M3K6B0N1RWC',
  '01jz8q4x9t5e2v7m3k6b0n1rwc',
  '7ZZZZZZZZZZZZZZZZZZZZZZZZZ',
  '8ZZZZZZZZZZZZZZZZZZZZZZZZZ',
  'A',
  '',
];
const CORRELATORS = ['6f0f2c7e-9d3b-4a36-8a51-2f6d3a1b9c04', '6F0F2C7E-9d3b-4a36-8a51-2f6d3a1b9c04', 'mine', ...IDS];

const USERS = ['acme', 'rival'] as const;

/** A grant's fields, each chosen from few, so that grants share them. */
const grant = fc
  .record({
    id: fc.oneof(
      fc.constantFrom(...IDS),
      fc.nat(30).map((i) => `01JZ8Q4X9T5E2V7M3K6B0N1R${String(i).padStart(2, '0')}`),
    ),
    device: fc.nat(3),
    mtcUser: fc.constantFrom(...USERS),
    inner: fc.constantFrom(...INNERS),
    remote: fc.constantFrom(...REMOTES),
    protocol: fc.constantFrom('tcp' as const, 'udp' as const),
    port: fc.integer({ min: 1, max: 65_535 }),
    number: fc.integer({ min: 1, max: 2 ** 48 }),
    phone: fc.boolean(),
    correlator: fc.constantFrom(...CORRELATORS),
    ends: fc.integer({ min: 0, max: 40 }),
    fraction: fc.bigInt({ min: 0n, max: SECOND - 1n }),
  })
  .map(({ id, device, mtcUser, inner, remote, protocol, port, number, phone, correlator, ends, fraction }) =>
    grantRecord({
      id,
      // A grant is of one server for ever.
      server: SERVERS[[...id].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % SERVERS.length],
      // Its device may be given to another MTC user.
      mtcUser,
      device: `m${device}@meters.example`,
      reference: phone ? { phoneNumber: `+4917${device}` } : { networkAccessIdentifier: `m${device}@meters.example` },
      family: inner.includes(':') ? 'ipv6' : 'ipv4',
      inner: { realm: 'iot', address: address(inner) },
      remote: remote === 'all' ? 'all' : address(remote),
      protocol,
      devicePort: port,
      remotePort: port % 3,
      external: { address: address(inner.includes(':') ? `2001:db8:a::${port.toString(16)}` : '203.0.113.1'), port },
      number,
      correlator,
      expiresAtNs: BigInt(ends) * SECOND + fraction,
    } as Partial<GrantRecord>),
  );
const step = fc.oneof(
  { weight: 6, arbitrary: grant.map((record) => ({ put: record })) },
  { weight: 2, arbitrary: grant.map((record) => ({ remove: record })) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 50 }).map((seconds) => ({ pass: BigInt(seconds) * SECOND })) },
);

class Twin {
  readonly records: GrantRecord[] = [];
  nowNs = -1n;

  put(record: GrantRecord): void {
    const at = this.records.findIndex(({ id }) => id === record.id);
    if (at < 0) this.records.push(record);
    else this.records[at] = record;
  }

  remove({ id }: GrantRecord): void {
    const at = this.records.findIndex((one) => one.id === id);
    if (at >= 0) this.records.splice(at, 1);
  }

  /** Whose time was over at the beginning of a second that has passed. */
  isDue({ expiresAtNs }: GrantRecord): boolean {
    return (expiresAtNs + SECOND - 1n) / SECOND <= this.nowNs / SECOND && this.nowNs >= 0n;
  }

  count(is: (record: GrantRecord) => boolean): number {
    return this.records.filter((record) => is(record) && !this.isDue(record)).length;
  }
}

test('finds, counts and ends what a plain list does', () => {
  const all = <Value extends { readonly id: string }>(records: Iterable<Value>) =>
    new Map([...records].map((record) => [record.id, record]));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const [live, twin] = [new LiveGrants(), new Twin()];
      for (const doing of steps) {
        if ('pass' in doing) {
          live.pass(doing.pass);
          if (doing.pass > twin.nowNs) twin.nowNs = doing.pass;
        } else if ('put' in doing) {
          // One grant a key, and one an endpoint: who puts them in sees to it.
          const { put } = doing;
          const taken = twin.records.some(
            (one) => one.id !== put.id && one.external.port === put.external.port && one.protocol === put.protocol,
          );
          if (taken) continue;
          live.put(put);
          twin.put(put);
        } else {
          live.remove(doing.remove);
          twin.remove(doing.remove);
        }
      }
      expect(all(live.all())).toEqual(all(twin.records));
      expect(live.size).toBe(twin.records.length);
      expect(all(live.due(1000))).toEqual(all(twin.records.filter((record) => twin.isDue(record))));
      for (const record of twin.records) {
        expect(live.get(record.id)).toEqual(record);
        expect(live.withKey(record)).toEqual(record);
        expect(live.withKey({ ...record, devicePort: record.devicePort + 1 })?.id).not.toBe(record.id);
        expect(live.atExternal(record.protocol, record.external)).toEqual(record);
      }
      for (const id of IDS) expect(live.get(id)).toEqual(twin.records.find((record) => record.id === id));
      for (const text of INNERS) {
        const inner = grantRecord().inner;
        const at = twin.records.filter((record) => record.inner.address.text === text);
        expect(all(live.atInner({ ...inner, address: address(text) }))).toEqual(all(at));
        expect(live.atInner({ realm: 'elsewhere' as typeof inner.realm, address: address(text) })).toEqual([]);
      }
      for (const user of [...USERS, 'nobody'] as unknown as GrantRecord['mtcUser'][]) {
        const own = twin.records.filter(({ mtcUser }) => mtcUser === user);
        expect(live.countOfMtcUser(user)).toBe(twin.count(({ mtcUser }) => mtcUser === user));
        expect(all(live.ofMtcUser(user))).toEqual(all(own));
        for (const server of SERVERS as GrantRecord['server'][])
          expect(all(live.ofMtcUser(user, server))).toEqual(all(own.filter((record) => record.server === server)));
      }
      for (const server of SERVERS as GrantRecord['server'][]) {
        expect(live.countOfServer(server)).toBe(twin.count((record) => record.server === server));
        for (const device of ['m0@meters.example', 'm1@meters.example'] as GrantRecord['device'][])
          expect(live.countOnDevice(server, device)).toBe(
            twin.count((record) => record.server === server && record.device === device),
          );
      }
    }),
    { numRuns: 300 },
  );
});

test('a list read by pages shows what lives all the while once, whatever comes and goes', () => {
  const numbered = (i: number) =>
    grantRecord({
      id: `01JZ8Q4X9T5E2V7M3K6B0N${String(i).padStart(4, '0')}`,
      server: SERVERS[i % 2],
      mtcUser: USERS[i % 3 === 0 ? 0 : 1],
      inner: { realm: 'iot', address: address(INNERS[i % 3] as string) },
      devicePort: i + 1,
      external: { address: address('203.0.113.1'), port: i + 1 },
    } as Partial<GrantRecord>);
  const selection = fc.constantFrom(
    {},
    { server: SERVERS[0] },
    { server: SERVERS[1] },
    { server: SERVERS[2] },
    { inners: [INNERS[0], INNERS[2]] },
    { server: SERVERS[0], inners: [INNERS[1]] },
    { inners: [] },
    { mtcUser: USERS[0] },
    { mtcUser: USERS[1] },
  );
  const change = fc.record({ remove: fc.array(fc.nat(399), { maxLength: 60 }), put: fc.nat(20) });
  fc.assert(
    fc.property(
      selection,
      fc.integer({ min: 10, max: 50 }),
      fc.array(change, { maxLength: 60 }),
      (chosen, limit, changes) => {
        const live = new LiveGrants();
        const known = Array.from({ length: 300 }, (_, i) => numbered(i));
        for (const record of known) live.put(record);
        const gone = new Set<string>();
        const inners = chosen.inners?.map((text) => ({ ...grantRecord().inner, address: address(text as string) }));
        const of = {
          mtcUser: chosen.mtcUser as GrantRecord['mtcUser'] | undefined,
          server: chosen.server as GrantRecord['server'] | undefined,
          inners,
        };
        const seen: string[] = [];
        let next: Mark | undefined;
        let turn = 0;
        do {
          const page = live.page(of, next, limit);
          expect(page.records.length).toBeLessThanOrEqual(limit);
          expect(page.total).toBe(
            [...live.all()].filter(
              ({ mtcUser, server, inner }) =>
                (!of.mtcUser || mtcUser === of.mtcUser) &&
                (!of.server || server === of.server) &&
                (!inners || inners.some((one) => one.address.text === inner.address.text)),
            ).length,
          );
          seen.push(...page.records.map(({ id }) => id));
          next = page.next;
          const { remove = [], put = 0 } = changes[turn++] ?? {};
          for (const i of remove) {
            const record = known[i];
            if (!record) continue;
            live.remove(record);
            gone.add(record.id);
          }
          for (let i = 0; i < put; i++) {
            const record = numbered(known.length);
            known.push(record);
            live.put(record);
          }
        } while (next);
        expect(new Set(seen).size).toBe(seen.length);
        const lasting = known
          .slice(0, 300)
          .filter(
            ({ id, mtcUser, server, inner }) =>
              !gone.has(id) &&
              (!of.mtcUser || mtcUser === of.mtcUser) &&
              (!of.server || server === of.server) &&
              (!inners || inners.some((one) => one.address.text === inner.address.text)),
          );
        expect(seen).toEqual(expect.arrayContaining(lasting.map(({ id }) => id)));
      },
    ),
    { numRuns: 50 },
  );
});
