/** Each rule by which accounting sessions make and end bindings; and that no order of events breaks what always holds. */

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address, contains, overlaps, type Prefix, prefix } from '../../agent/core/net.ts';
import type { ExternalId, Imsi, RealmName } from '../../agent/core/words.ts';
import type { AccountingEvent, SessionEvent } from '../../agent/directory/accounting.ts';
import { type Binding, type Change, rangeKey } from '../../agent/directory/binding.ts';
import { type Finding, isAlarmed } from '../../agent/directory/findings.ts';
import { type Plan, Sessions, type Surroundings } from '../../agent/directory/sessions.ts';
import { NOTHING_TOLD } from '../accounting.ts';

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 4, 1);
const iot = 'iot' as RealmName;
const m1 = 'm1@meters.example' as ExternalId;
const m2 = 'm2@meters.example' as ExternalId;
const IMSI = { [m1]: '262010000000001' as Imsi, [m2]: '262010000000002' as Imsi };
const POOLS = ['10.20.0.0/16', 'fd00:20::/32'].map(prefix);

/** Bindings as a list, and a registry that can be changed. */
class World implements Surroundings {
  readonly sessions = new Sessions();
  bindings: Binding[] = [];
  nowMs = NOW;
  registry = new Map<Imsi, ExternalId>(Object.entries(IMSI).map(([device, imsi]) => [imsi, device as ExternalId]));
  interfaceIds = new Map<ExternalId, bigint>();

  overlapping = ({ realm, prefix: of }: { realm: RealmName; prefix: Prefix }) =>
    this.bindings.filter((one) => one.realm === realm && overlaps(one.prefix, of));
  deviceOf = ({ imsi }: SessionEvent['subscriber']) => imsi && this.registry.get(imsi);
  interfaceIdOf = (device: ExternalId) => this.interfaceIds.get(device);
  realmOfApn = (apn: string) => (apn === 'iot.example' ? iot : undefined);
  realmsFor = (_: string, of: Prefix) => (POOLS.some((pool) => contains(pool, of.address)) ? [iot] : []);

  tell(event: AccountingEvent): Plan {
    const plan = this.sessions.plan(event, this.nowMs, this);
    this.carryOut(plan);
    return plan;
  }

  carryOut(plan: Plan): void {
    this.take(plan.change);
    this.sessions.apply(plan, this.nowMs);
  }

  take({ losses, gains }: Change): void {
    const lost = new Set(losses.map(({ binding }) => rangeKey(binding)));
    this.bindings = [...this.bindings.filter((one) => !lost.has(rangeKey(one))), ...gains];
  }

  /** `10.20.0.2 m1@meters.example`, and where a target is another address: `-> address`. */
  get held(): string[] {
    return this.bindings.map(({ prefix: of, holder, target }) => {
      const text = of.text.replace(/\/(32|128)$/, '');
      return `${text} ${holder}${target && target.text !== text ? ` -> ${target.text}` : ''}`;
    });
  }
}

type Telling = Partial<Omit<SessionEvent, 'subscriber'>> & { readonly of?: ExternalId | Imsi | null; atMs?: number };

function event(kind: SessionEvent['kind'], session: string, { of = m1, atMs, ...more }: Telling = {}): SessionEvent {
  return {
    ...NOTHING_TOLD,
    kind,
    nas: { client: 'pgw-1', id: 'ggsn' },
    time: { nasMs: atMs, hereMs: NOW },
    session,
    subscriber: {
      ...NOTHING_TOLD.subscriber,
      imsi: of === null ? undefined : (IMSI[of as keyof typeof IMSI] ?? (of as Imsi)),
    },
    apn: 'iot.example',
    stopsAll: false,
    ...more,
  };
}
const A = { ipv4: address('10.20.0.2') };
const B = { ipv4: address('10.20.0.3') };
const nasEvent = (kind: 'on' | 'off', atMs?: number, id = 'ggsn') =>
  ({ kind, nas: { client: 'pgw-1', id }, time: { nasMs: atMs, hereMs: NOW } }) as const;

const found = (plan: Plan): Finding => plan.finding;

test('a Start binds, a Stop unbinds', () => {
  const world = new World();
  expect(found(world.tell(event('start', 's1', A)))).toBe('applied');
  expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
  expect(world.tell(event('stop', 's1'))).toMatchObject({
    finding: 'applied',
    change: { losses: [{ cause: 'deviceUnbound' }], gains: [] },
  });
  expect(world.held).toEqual([]);
  expect(world.sessions.size).toBe(0);
});

describe('several bearers on one address', () => {
  test('the binding lives while one does', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    expect(world.tell(event('start', 's2', A)).change).toEqual({ losses: [], gains: [] });
    world.tell(event('stop', 's1'));
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
    world.tell(event('stop', 's2'));
    expect(world.held).toEqual([]);
  });

  test('3GPP-Session-Stop-Indicator ends all of them', () => {
    const world = new World();
    for (const session of ['s1', 's2', 's3']) world.tell(event('start', session, A));
    world.tell(event('start', 's4', B));
    world.tell(event('stop', 's2', { stopsAll: true }));
    expect(world.held).toEqual(['10.20.0.3 m1@meters.example']);
    expect(found(world.tell(event('interim', 's1', A)))).toBe('sessionStopped');
  });

  test('a session name of another NAS, or of another client, is another session', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    world.tell(event('start', 's1', { ...B, of: m2, nas: { client: 'pgw-1', id: 'other' } }));
    expect(found(world.tell(event('stop', 's1', { nas: { client: 'pgw-2', id: 'ggsn' } })))).toBe('sessionUnknown');
    world.tell(event('stop', 's1'));
    expect(world.held).toEqual(['10.20.0.3 m2@meters.example']);
  });
});

describe('Accounting-On and -Off', () => {
  test.each(['on', 'off'] as const)('%s ends all of that NAS at once, and nothing of another', (kind) => {
    const world = new World();
    world.tell(event('start', 's1', A));
    world.tell(event('start', 's2', { ...B, of: m2 }));
    world.tell(event('start', 's3', { ipv4: address('10.20.0.4'), nas: { client: 'pgw-1', id: 'other' } }));
    expect(world.tell(nasEvent(kind)).change.losses).toHaveLength(2);
    expect(world.held).toEqual(['10.20.0.4 m1@meters.example']);
  });

  test('what is older than it says nothing; the same names may be used again', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, atMs: NOW - 1_000 }));
    world.tell(nasEvent('on', NOW));
    expect(found(world.tell(event('interim', 's1', { ...A, atMs: NOW - 500 })))).toBe('older');
    expect(found(world.tell(nasEvent('on', NOW - 2_000)))).toBe('older');
    expect(found(world.tell(event('start', 's1', { ...B, atMs: NOW + 1_000 })))).toBe('applied');
    expect(world.held).toEqual(['10.20.0.3 m1@meters.example']);
  });

  test('a session that began after it, and was told before it, stays', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, atMs: NOW }));
    world.tell(nasEvent('on', NOW - 1_000));
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
  });
});

describe('an address of another', () => {
  test('a Start takes it: the former holder goes first, with all that his session held', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, ipv6Prefix: prefix('fd00:20:0:1::/64') }));
    const plan = world.tell(event('start', 's2', { ...A, of: m2 }));
    expect(plan.finding).toBe('addressTaken');
    expect(plan.why).toBe('10.20.0.2/32 was held by m1@meters.example');
    expect(plan.change.losses.map(({ binding, cause }) => [binding.prefix.text, cause])).toEqual([
      ['10.20.0.2/32', 'addressReassigned'],
      ['fd00:20:0:1::/64', 'deviceUnbound'],
    ]);
    expect(world.held).toEqual(['10.20.0.2 m2@meters.example']);
  });

  test('a late Stop, or Interim-Update, of the former holder changes nothing', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    world.tell(event('start', 's2', { ...A, of: m2 }));
    expect(found(world.tell(event('stop', 's1')))).toBe('duplicate');
    expect(found(world.tell(event('interim', 's1', A)))).toBe('sessionStopped');
    expect(world.held).toEqual(['10.20.0.2 m2@meters.example']);
  });

  test('a Start that is older than what was heard of the holder takes nothing', () => {
    const world = new World();
    world.tell(event('start', 's2', { ...A, of: m2, atMs: NOW }));
    world.tell(event('interim', 's2', { ...A, of: m2, atMs: NOW + 60_000 }));
    expect(found(world.tell(event('start', 's1', { ...A, atMs: NOW + 59_000 })))).toBe('older');
    expect(world.held).toEqual(['10.20.0.2 m2@meters.example']);
    expect(world.sessions.size).toBe(1);
  });

  test('an Interim-Update takes nothing from anybody', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    const plan = world.tell(event('interim', 's2', { ...A, of: m2 }));
    expect([plan.finding, isAlarmed(plan.finding)]).toEqual(['interimOfOthers', true]);
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
    expect(world.sessions.size).toBe(1);
  });

  test('a prefix takes an address that lies in it, and the other way round', () => {
    const world = new World();
    world.tell(event('start', 's1', { ipv6Address: address('fd00:20:0:1::5') }));
    world.tell(event('start', 's2', { ipv6Prefix: prefix('fd00:20:0:1::/64'), of: m2 }));
    expect(world.held).toEqual(['fd00:20:0:1::/64 m2@meters.example']);
    world.tell(event('start', 's3', { ipv6Address: address('fd00:20:0:1::6') }));
    expect(world.held).toEqual(['fd00:20:0:1::6 m1@meters.example']);
  });

  test.each(['file', 'management'] as const)('what the %s bound to another is never taken', (source) => {
    const world = new World();
    world.bindings = [{ realm: iot, prefix: prefix('10.20.0.2/32'), holder: m2, source, sinceMs: 0 }];
    const plan = world.tell(event('start', 's1', A));
    expect([plan.finding, isAlarmed(plan.finding)]).toEqual(['boundOtherwise', true]);
    expect(world.held).toEqual(['10.20.0.2 m2@meters.example']);
  });

  test('what the file bound to the same device outlives the session', () => {
    const world = new World();
    world.bindings = [{ realm: iot, prefix: prefix('10.20.0.2/32'), holder: m1, source: 'file', sinceMs: 0 }];
    expect(found(world.tell(event('start', 's1', A)))).toBe('applied');
    world.tell(event('stop', 's1'));
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
  });
});

describe('a session', () => {
  test('that was stopped never binds again, for 24 hours', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    world.tell(event('stop', 's1'));
    expect(found(world.tell(event('start', 's1', A)))).toBe('sessionStopped');
    expect(found(world.tell(event('interim', 's1', A)))).toBe('sessionStopped');
    expect(found(world.tell(event('stop', 's1')))).toBe('duplicate');
    world.nowMs += 24 * HOUR - 1;
    expect(found(world.tell(event('start', 's1', A)))).toBe('sessionStopped');
    world.nowMs += 1;
    expect(found(world.tell(event('start', 's1', A)))).toBe('applied');
  });

  test('whose Stop comes before its Start never binds', () => {
    const world = new World();
    expect(found(world.tell(event('stop', 's1', A)))).toBe('sessionUnknown');
    expect(found(world.tell(event('start', 's1', A)))).toBe('sessionStopped');
    expect(world.held).toEqual([]);
  });

  test('is changed by nothing that is older than its last event; of the same second is not older', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, atMs: NOW }));
    world.tell(event('interim', 's1', { ...A, atMs: NOW + 60_000 }));
    expect(found(world.tell(event('stop', 's1', { atMs: NOW + 59_000 })))).toBe('older');
    expect(world.held).toHaveLength(1);
    expect(found(world.tell(event('stop', 's1', { atMs: NOW + 60_000 })))).toBe('applied');
    expect(world.held).toEqual([]);
  });

  test('of a NAS whose clock is far ahead goes by ours: when the clock is right again, it is heard', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, atMs: NOW + 365 * 24 * HOUR }));
    expect(found(world.tell(event('stop', 's1', { atMs: NOW + 1_000 })))).toBe('applied');
  });

  test('that is told twice is applied once', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    const again = world.tell(event('start', 's1', A));
    expect([again.finding, again.change]).toEqual(['duplicate', { losses: [], gains: [] }]);
  });

  test('whose Start was lost is made by its Interim-Update', () => {
    const world = new World();
    expect(found(world.tell(event('interim', 's1', A)))).toBe('applied');
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
  });

  test('learns its address later, and another beside it', () => {
    const world = new World();
    world.tell(event('start', 's1'));
    expect(world.held).toEqual([]);
    world.tell(event('interim', 's1', A));
    world.tell(event('interim', 's1', { ipv6Prefix: prefix('fd00:20:0:1::/64') }));
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example', 'fd00:20:0:1::/64 m1@meters.example']);
    world.tell(event('stop', 's1'));
    expect(world.held).toEqual([]);
  });

  test('does not become that of another subscriber, but by a Start, which ends the former one', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    for (const kind of ['interim', 'stop'] as const) {
      const plan = world.tell(event(kind, 's1', { ...B, of: m2 }));
      expect([plan.finding, isAlarmed(plan.finding)]).toEqual(['identityChanged', true]);
    }
    expect(world.held).toEqual(['10.20.0.2 m1@meters.example']);
    expect(found(world.tell(event('start', 's1', { ...B, of: m2 })))).toBe('sessionReused');
    expect(world.held).toEqual(['10.20.0.3 m2@meters.example']);
    expect(found(world.tell(event('stop', 's1', { of: m2 })))).toBe('applied');
    expect(world.held).toEqual([]);
  });

  test('of which nothing is heard for too long ends; an Interim-Update brings it back', () => {
    const world = new World();
    world.tell(event('start', 's1', A));
    world.nowMs += HOUR;
    world.tell(event('start', 's2', { ...B, of: m2 }));
    expect(world.sessions.planStale(NOW, world)).toBeUndefined();
    world.carryOut(world.sessions.planStale(NOW + 1, world) as Plan);
    expect(world.held).toEqual(['10.20.0.3 m2@meters.example']);
    expect(found(world.tell(event('interim', 's1', A)))).toBe('applied');
  });
});

describe('where an address may be', () => {
  test.each([
    ['outside the pools of its client', { ipv4: address('10.99.0.2') }, 'outsidePools'],
    ['outside them, beside one within', { ...A, ipv6Prefix: prefix('fd00:99::/64') }, 'outsidePools'],
    ['of a length that the gate has no room for', { delegatedPrefix: prefix('fd00:20::/57') }, 'prefixLength'],
    ['of an APN that is no realm', { ...A, apn: 'elsewhere' }, 'realmUnknown'],
  ] as const)('%s it is refused, and nothing of the event applies', (_, more, finding) => {
    const world = new World();
    const plan = world.tell(event('start', 's1', more));
    expect([plan.finding, isAlarmed(plan.finding)]).toEqual([finding, true]);
    expect([world.held, world.sessions.size]).toEqual([[], 0]);
  });

  test('without an APN the address says which realm', () => {
    const world = new World();
    expect(found(world.tell(event('start', 's1', { ...A, apn: undefined })))).toBe('applied');
    world.realmsFor = () => [iot, 'cams' as RealmName];
    expect(found(world.tell(event('start', 's2', { ...B, apn: undefined })))).toBe('realmUnknown');
  });
});

describe('where grants lead in an IPv6 prefix', () => {
  const P = { ipv6Prefix: prefix('fd00:20:0:1::/64') };
  test.each([
    ['nowhere, where nothing says', {}, 'fd00:20:0:1::/64 m1@meters.example'],
    ['to the interface identifier of the NAS', { interfaceId: 0x2_0000_0000_0005n }, '-> fd00:20:0:1:2::5'],
    ['to the address that the NAS tells', { ipv6Address: address('fd00:20:0:1::7') }, '-> fd00:20:0:1::7'],
  ])('%s', (_, more, expected) => {
    const world = new World();
    world.tell(event('start', 's1', { ...P, ...more }));
    expect(world.held).toEqual([expect.stringContaining(expected)]);
    expect(world.held).toHaveLength(1);
  });

  test('to the one of the registry, unless the NAS tells another', () => {
    const world = new World();
    world.interfaceIds.set(m1, 9n);
    world.tell(event('start', 's1', P));
    expect(world.held).toEqual(['fd00:20:0:1::/64 m1@meters.example -> fd00:20:0:1::9']);
    const plan = world.tell(event('interim', 's1', { ...P, interfaceId: 5n }));
    expect(plan.change.losses).toMatchObject([{ cause: 'deviceUnbound' }]);
    expect(world.held).toEqual(['fd00:20:0:1::/64 m1@meters.example -> fd00:20:0:1::5']);
  });

  test('a delegated prefix is held, and no grant leads there', () => {
    const world = new World();
    world.tell(event('start', 's1', { delegatedPrefix: prefix('fd00:20:1::/56') }));
    expect(world.bindings).toMatchObject([{ prefix: { text: 'fd00:20:1::/56' } }]);
    expect(world.bindings[0]?.target).toBeUndefined();
  });
});

describe('a subscriber whom the registry does not know', () => {
  const stranger = '262019999999999' as Imsi;
  test('holds without being a device, until he is registered', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, of: stranger }));
    expect(world.held).toEqual([`10.20.0.2 imsi:${stranger}`]);
    expect(world.sessions.planReowned(world)).toBeUndefined();
    world.registry.set(stranger, m2);
    world.carryOut(world.sessions.planReowned(world) as Plan);
    expect(world.held).toEqual(['10.20.0.2 m2@meters.example']);
    expect(found(world.tell(event('interim', 's1', { ...A, of: stranger })))).toBe('applied');
    world.tell(event('stop', 's1', { of: stranger }));
    expect(world.held).toEqual([]);
  });

  test('is registered between two events: the next one is no take-over', () => {
    const world = new World();
    world.tell(event('start', 's1', { ...A, of: stranger }));
    world.registry.set(stranger, m2);
    expect(found(world.tell(event('interim', 's1', { ...A, of: stranger })))).toBe('applied');
    expect(world.held).toEqual(['10.20.0.2 m2@meters.example']);
  });

  test('without any name holds as the session', () => {
    const world = new World();
    world.tell(event('start', 'x@y', { ...A, of: null }));
    expect(world.held).toEqual(['10.20.0.2 session:pgw-1 ggsn x%40y']);
  });
});

test('whatever comes in whatever order: each binding has a session of its holder, and no two overlap', () => {
  const ranges: Partial<SessionEvent>[] = [
    A,
    B,
    { ipv6Prefix: prefix('fd00:20:0:1::/64') },
    { ipv6Address: address('fd00:20:0:1::5') },
    { ...A, ipv6Prefix: prefix('fd00:20:0:2::/64'), interfaceId: 1n },
    { delegatedPrefix: prefix('fd00:20::/60') },
    { ipv4: address('10.99.0.1') },
    {},
  ];
  const any = fc.oneof(
    {
      weight: 12,
      arbitrary: fc
        .record({
          kind: fc.constantFrom('start' as const, 'start' as const, 'interim' as const, 'stop' as const),
          session: fc.constantFrom('s1', 's2', 's3', 's4'),
          of: fc.constantFrom(m1, m2, '262019999999999' as Imsi),
          range: fc.constantFrom(...ranges),
          atMs: fc.integer({ min: 0, max: 5 }).map((seconds) => NOW + seconds * 1_000),
          stopsAll: fc.boolean(),
          nas: fc.constantFrom('ggsn', 'other').map((id) => ({ client: 'pgw-1', id })),
        })
        .map(({ kind, session, range, ...more }): AccountingEvent => event(kind, session, { ...range, ...more })),
    },
    {
      weight: 1,
      arbitrary: fc
        .record({ kind: fc.constantFrom('on' as const, 'off' as const), atMs: fc.constantFrom(NOW, NOW + 3_000) })
        .map(({ kind, atMs }): AccountingEvent => nasEvent(kind, atMs)),
    },
  );
  let bound = 0;
  fc.assert(
    fc.property(fc.array(any, { maxLength: 40 }), (events) => {
      const world = new World();
      for (const one of events) {
        const before = new Map(world.bindings.map((binding) => [rangeKey(binding), binding.holder]));
        world.tell(one);
        for (const binding of world.bindings) {
          bound += 1;
          const holders = [...world.sessions.all(binding)].map(({ holder }) => holder);
          expect(new Set(holders)).toEqual(new Set([binding.holder]));
          for (const other of world.bindings)
            if (other !== binding) expect(overlaps(other.prefix, binding.prefix)).toBe(false);
          const former = before.get(rangeKey(binding));
          // Nobody but a Start takes anything from another.
          if (former && former !== binding.holder) expect(one.kind).toBe('start');
        }
        const inner = [...world.sessions.all()].flatMap((session) => session.ranges.map((range) => rangeKey(range)));
        for (const key of before.keys())
          expect(inner.includes(key) || !world.bindings.some((one) => rangeKey(one) === key)).toBe(true);
      }
    }),
    { numRuns: 500 },
  );
  expect(bound).toBeGreaterThan(1_000);
});
