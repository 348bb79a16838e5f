/** A desk takes, and never gives more than the operator lets an MTC user authorise. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { changed, type Desk, type SetPreference } from '../../agent/desk/desk.ts';
import { layDesk } from '../../agent/desk/laid-policy.ts';
import { readPreference, type WrittenPreference } from '../../agent/desk/preference-form.ts';
import { decide } from '../../agent/policy/decide.ts';
import { matchesDevice } from '../../agent/policy/patterns.ts';
import { NO_USAGE } from '../../agent/policy/policy.ts';
import type { Question } from '../../agent/policy/question.ts';
import { digest, policyOf } from '../rules.ts';

const SERVERS = ['acme-a', 'acme-b', 'rival-a', 'else'];
const rules = (authorises: (user: string) => string) => `servers:
${SERVERS.map((name, i) => `  ${name}: { certificates: [{ uri: "urn:${name}" }], sources: [198.51.10${i}.0/24] }`).join('\n')}
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [${authorises('acme')}], mayAuthorise: ["acme-*"] }
  rival: { devices: ["*@rival.example"], authorises: [${authorises('rival')}], mayAuthorise: ["rival-*"] }
rules:
  - { id: day, allow: { ports: [1-2] }, hours: { from: "06:00", to: "22:00", zone: UTC }, limits: { durationSeconds: 7200 } }
  - { id: some, allow: { servers: [acme-a, rival-a] }, limits: { durationSeconds: 600 } }
  - { id: never, deny: { ports: [3], reason: no } }
`;
/** As the operator begins, and as the operator lets it become at the most. */
const POLICY = policyOf(rules((user) => (user === 'acme' ? 'acme-a' : '')));
const WIDEST = policyOf(rules((user) => (user === 'acme' ? 'acme-a, acme-b' : 'rival-a')));

const user = fc.constantFrom('acme', 'rival') as fc.Arbitrary<never>;
const zone = fc.constantFrom('UTC', 'Europe/Berlin', 'America/New_York', 'Pacific/Apia');
const time = fc.integer({ min: 0, max: 1439 }).map((minute) => {
  const [hours, minutes] = [Math.floor(minute / 60), minute % 60];
  return `${String(hours).padStart(2, '0')}:${String(minutes).padStart(2, '0')}`;
});
const written: fc.Arbitrary<WrittenPreference> = fc
  .record(
    {
      devices: fc.constantFrom('*@acme.example', 'm1@acme.example', 'm*@acme.example', '*@rival.example', '*@*'),
      block: fc.boolean(),
      quietHours: fc.record({ from: time, to: time, zone }),
      grantsPerDay: fc.record({ grants: fc.integer({ min: 1, max: 3 }), zone }),
    },
    { requiredKeys: ['devices'] },
  )
  .filter((one) => !('wrong' in readPreference(one)));
const by = { byUid: 0 };
const step = fc.oneof(
  fc.record({ user, servers: fc.subarray([...SERVERS, 'gone']) }),
  fc.record({ user, id: fc.constantFrom('p1', 'p2', 'p3'), written }),
);
const desk = fc.array(step, { maxLength: 8 }).map((steps) =>
  steps.reduce<Desk>((before, one) => {
    if ('servers' in one)
      return changed(before, one.user, {
        kind: 'authorise',
        authorised: { servers: one.servers as never, by, atMs: 0 },
      });
    const preference = { ...readPreference(one.written), id: one.id, by, atMs: 0 } as SetPreference;
    return changed(before, one.user, { kind: 'prefer', preference });
  }, new Map()),
);
const question: fc.Arbitrary<Question> = fc
  .record({
    server: fc.integer({ min: 0, max: 3 }),
    device: fc.constantFrom('m1@acme.example', 'n1@acme.example', 'm1@rival.example', 'm1@nobody.example', undefined),
    port: fc.integer({ min: 1, max: 4 }),
    durationSeconds: fc.integer({ min: 1, max: 10_000 }),
    nowMs: fc.integer({ min: Date.UTC(2026, 0, 1), max: Date.UTC(2026, 11, 31) }),
    begun: fc.integer({ min: 0, max: 4 }),
  })
  .map(({ server, device, begun, ...rest }) => ({
    ...rest,
    server: SERVERS[server] as never,
    device: device === undefined ? undefined : { externalId: device as never, attributes: {}, boundFamilies: ['ipv4'] },
    protocol: 'udp',
    requestAddress: address(`198.51.10${server}.1`),
    usage: NO_USAGE,
    begunToday: () => begun,
  }));

test('laying a desk never allows what the policy refuses, nor for longer, but for servers within mayAuthorise', () => {
  fc.assert(
    fc.property(desk, question, (said, asked) => {
      const laid = decide(layDesk(POLICY, said, digest), asked);
      const alone = decide(WIDEST, asked);
      if (laid.verdict === 'refuse') return;
      expect(alone.verdict).toBe('allow');
      if (alone.verdict !== 'allow') return;
      expect(laid.durationSeconds).toBeLessThanOrEqual(alone.durationSeconds);
      expect(laid.closesAtMs ?? Number.POSITIVE_INFINITY).toBeLessThanOrEqual(
        alone.closesAtMs ?? Number.POSITIVE_INFINITY,
      );
    }),
    { numRuns: 2_000 },
  );
});

test('what an MTC user says changes nothing for the devices of others', () => {
  fc.assert(
    fc.property(desk, question, (said, asked) => {
      const owner =
        asked.device &&
        [...POLICY.mtcUsers.values()].find(({ devices }) =>
          devices.some((one) => matchesDevice(one, asked.device?.externalId ?? '')),
        );
      const others = new Map([...said].filter(([name]) => name !== owner?.name));
      expect(decide(layDesk(POLICY, others, digest), asked)).toEqual(decide(POLICY, asked));
    }),
    { numRuns: 1_000 },
  );
});

test('a block refuses every request to its devices, whatever else is said', () => {
  fc.assert(
    fc.property(desk, question, (said, asked) => {
      const preference = { ...readPreference({ devices: '*@acme.example', block: true }), id: 'b', by, atMs: 0 };
      const blocked = changed(said, 'acme' as never, { kind: 'prefer', preference: preference as SetPreference });
      if (!asked.device?.externalId.endsWith('@acme.example')) return;
      expect(decide(layDesk(POLICY, blocked, digest), asked).verdict).toBe('refuse');
    }),
    { numRuns: 1_000 },
  );
});
