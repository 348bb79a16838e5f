/** What an MTC user says, and what becomes of grants by it. */
import { beforeEach, describe, expect, test } from 'vitest';
import type { Refusal } from '../../agent/core/refusals.ts';
import type { ExternalId } from '../../agent/core/words.ts';
import type { Change } from '../../agent/desk/desk.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { type DevicePattern, parseDevicePattern } from '../../agent/policy/patterns.ts';
import { DeskClerk } from '../../agent/use-cases/desk-clerk.ts';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { ask, HEAD_END, inner, M1, M2, OTHER, policyOf, RULES, TestGateway } from '../gateway.ts';
import { digest } from '../rules.ts';

const ACME = 'acme' as never;
const RIVAL = 'rival' as never;
const R1 = 'r1@rival.example' as ExternalId;
const BY = { certificate: 'ca:acme' as never };
const TWO_TENANTS = RULES.replace(
  'authorises: [head-end], mayAuthorise: ["*"] }',
  `authorises: [head-end, other], mayAuthorise: ["*"] }
  rival: { devices: ["*@rival.example"], authorises: [head-end], mayAuthorise: [head-end] }`,
).replace('servers: [head-end], protocols', 'servers: [head-end, other], protocols');
const DEVICES = [
  { device: { externalId: M1 }, bindings: [inner('10.20.0.2')] },
  { device: { externalId: M2 }, bindings: [] },
  { device: { externalId: R1 }, bindings: [inner('10.20.0.9')] },
];

let gateway: TestGateway;
let clerk: DeskClerk;
async function start(): Promise<void> {
  await gateway.start(TWO_TENANTS, DEVICES);
  clerk = new DeskClerk(gateway.desk, gateway.ground, digest);
}
beforeEach(async () => {
  gateway = new TestGateway();
  await start();
});

const granted = async (answer: Promise<GrantRecord | Refusal>): Promise<GrantRecord> => {
  const record = await answer;
  if ('reason' in record) throw new Error(`${record.reason}: ${record.why}`);
  return record;
};
const request = (device: ExternalId, who = HEAD_END, devicePort = 5683) =>
  gateway.grants.request(who, ask({ device: { networkAccessIdentifier: device }, devicePort }));
const open = (device: ExternalId, who = HEAD_END, devicePort = 5683) => granted(request(device, who, devicePort));
const reasonOf = async (answer: Promise<GrantRecord | Refusal>) => {
  const record = await answer;
  return 'reason' in record ? record.reason : 'granted';
};
const isOpen = ({ index, number }: GrantRecord) => {
  const entry = gateway.memory.entry(index);
  return entry?.mapping.number === number && entry.endNs > gateway.clock.monotonicNs();
};
const onRecord = ({ id }: GrantRecord) => gateway.store.find(id);
const wait = async (who = HEAD_END) =>
  (await gateway.grants.requestOrWait(
    who,
    ask({ device: { networkAccessIdentifier: M2 }, ipFamily: 'ipv4' }),
    3600,
  )) as WaitingRequest;

describe('a server that is withdrawn', () => {
  test('loses its grants on that MTC user’s devices there and then, on record before the answer; others go on', async () => {
    const [gone, elsewhere, ofOther] = [await open(M1), await open(R1), await open(M1, OTHER)];
    const answer = clerk.withdraw(ACME, BY, 'head-end');
    await Promise.resolve(); // its turn at the desk comes, and all is closed in it
    await Promise.resolve();
    expect([gone, elsewhere, ofOther].map(isOpen)).toEqual([false, true, true]);
    expect(await answer).toMatchObject({ servers: ['other'], setBy: 'mtcUser' });
    expect(onRecord(gone)).toMatchObject({ state: 'ended', endCause: 'serverUnauthorised' });
    expect(onRecord(elsewhere)).toMatchObject({ state: 'live' });
    expect(onRecord(ofOther)).toMatchObject({ state: 'live' });
  });

  test('is told no more than that there is no such device', async () => {
    await clerk.withdraw(ACME, BY, 'head-end');
    expect(await reasonOf(request(M1))).toBe('notAuthorisedByMtcUser');
    expect(await reasonOf(request(R1))).toBe('granted');
    expect(await reasonOf(request(M1, OTHER))).toBe('granted');
  });

  test('stays withdrawn over a restart, and the rule files do not let it in again', async () => {
    const grant = await open(M1);
    await clerk.withdraw(ACME, BY, 'head-end');
    await start();
    expect(await reasonOf(request(M1))).toBe('notAuthorisedByMtcUser');
    await gateway.grants.switchPolicy(() => gateway.desk.lay(policyOf(TWO_TENANTS.replace('no-telnet', 'no-login'))));
    expect(await reasonOf(request(M1))).toBe('notAuthorisedByMtcUser');
    expect(onRecord(grant)?.endCause).toBe('serverUnauthorised');
  });

  test('what waits for such a device ends with it', async () => {
    const waiting = await wait();
    await clerk.withdraw(ACME, BY, 'head-end');
    expect(gateway.grants.waiting.size).toBe(0);
    expect(gateway.store.findWait(waiting.id)).toMatchObject({ state: 'ended', endCause: 'notAuthorisedByMtcUser' });
  });

  test('a request that is being recorded when it is withdrawn opens nothing', async () => {
    const asked = request(M1);
    const withdrawn = clerk.withdraw(ACME, BY, 'head-end');
    expect(await reasonOf(asked)).toBe('changedWhileDeciding');
    await withdrawn;
    expect(gateway.grants.live.size).toBe(0);
  });

  test('a crash between desk and gate: the next start ends its grants', async () => {
    const grant = await open(M1);
    const authorised = { servers: ['other' as never], by: BY, atMs: gateway.clock.nowMs() };
    gateway.deskStore.write(ACME, { kind: 'authorise', authorised });
    expect(isOpen(grant)).toBe(true);
    await start();
    expect(isOpen(grant)).toBe(false);
    expect(onRecord(grant)).toMatchObject({ state: 'ended', endCause: 'serverUnauthorised' });
  });

  test('can be authorised again, which opens nothing by itself; and its set can be cleared', async () => {
    await clerk.withdraw(ACME, BY, 'head-end');
    expect(await clerk.authorise(ACME, BY, 'head-end')).toMatchObject({ servers: ['head-end', 'other'] });
    expect(gateway.grants.live.size).toBe(0);
    expect(await reasonOf(request(M1))).toBe('granted');
    await clerk.setServers(ACME, BY, []);
    expect(gateway.grants.live.size).toBe(0);
    expect(await clerk.clearServers(ACME, { byUid: 0 })).toBeUndefined();
    expect(clerk.servers(ACME)).toMatchObject({ servers: ['head-end', 'other'], setBy: 'ruleFiles' });
  });

  test('the version of the policy is another for its devices, and the same for those of others', async () => {
    const [before, elsewhere] = [await open(M1, OTHER), await open(R1)];
    await clerk.withdraw(ACME, BY, 'head-end');
    const after = await open(M1, OTHER, 7000);
    expect(after.policyVersion).not.toBe(before.policyVersion);
    expect((await open(R1, HEAD_END, 7000)).policyVersion).toBe(elsewhere.policyVersion);
  });

  test('an extension goes on where another MTC user changes its mind meanwhile', async () => {
    const grant = await open(M1);
    gateway.clock.pass(60);
    const extended = gateway.extensions.extend(HEAD_END, grant.id, 900);
    await clerk.setServers(RIVAL, BY, []);
    expect(await extended).toMatchObject({ id: grant.id, state: 'live' });
  });
});

describe('a preference', () => {
  const block = { devices: 'm1@*.example', block: true };
  const night = { from: '22:00', to: '06:00', zone: 'UTC' };

  test('that is not within its own patterns is no preference', async () => {
    expect(await clerk.prefer(ACME, BY, block)).toMatchObject({ reason: 'devicesNotOwned' });
    expect(await clerk.prefer(ACME, BY, { devices: R1, block: true })).toMatchObject({ reason: 'devicesNotOwned' });
    expect(await clerk.prefer(ACME, BY, { devices: '*@*', block: true })).toMatchObject({ reason: 'devicesNotOwned' });
    expect(await reasonOf(request(R1))).toBe('granted');
  });

  test('block: ends what is live on such devices there and then, and refuses; others go on', async () => {
    const [gone, elsewhere] = [await open(M1), await open(R1)];
    const kept = await clerk.prefer(ACME, BY, { devices: M1, block: true });
    expect([gone, elsewhere].map(isOpen)).toEqual([false, true]);
    expect(onRecord(gone)).toMatchObject({ endCause: 'unwanted' });
    const refused = (await request(M1)) as Refusal;
    expect(refused).toMatchObject({ reason: 'unwanted', step: 'preference', rule: 'meters' });
    expect(gateway.log.lines.at(-1)).toMatchObject({ reason: 'unwanted', device: M1 });
    await clerk.drop(ACME, BY, 'id' in kept ? kept.id : '');
    expect(await reasonOf(request(M1))).toBe('granted');
  });

  test('block: what waits for such a device ends', async () => {
    const waiting = await wait();
    await clerk.prefer(ACME, BY, { devices: '*@meters.example', block: true });
    expect(gateway.store.findWait(waiting.id)).toMatchObject({ state: 'ended', endCause: 'unwanted' });
  });

  test('unwanted is not unauthorised: without an allow of the operator it is that which refuses', async () => {
    await clerk.prefer(ACME, BY, { devices: M1, block: true });
    expect(await reasonOf(request(M1, HEAD_END, 9))).toBe('noRuleAllows');
    expect(await reasonOf(request(M1, HEAD_END, 23))).toBe('deniedByRule');
    await clerk.withdraw(ACME, BY, 'head-end');
    expect(await reasonOf(request(M1))).toBe('notAuthorisedByMtcUser');
  });

  test('quiet hours: lower the end of what is live to their beginning, cut what is granted, refuse within them', async () => {
    gateway.clock.utcMs = Date.UTC(2026, 0, 1, 21, 55);
    const grant = await open(M1);
    await clerk.prefer(ACME, BY, { devices: '*@meters.example', quietHours: night });
    const begins = Date.UTC(2026, 0, 1, 22);
    expect(onRecord(grant)?.expiresAtMs).toBe(begins);
    expect(gateway.memory.entry(grant.index)?.endNs).toBe(gateway.clock.monotonicNs() + 300_000_000_000n);
    expect((await open(M1, HEAD_END, 7000)).expiresAtMs).toBe(begins);
    gateway.clock.pass(299.5);
    expect(await reasonOf(request(M1, HEAD_END, 7001))).toBe('unwanted');
    gateway.clock.pass(1);
    expect(await reasonOf(request(M1, HEAD_END, 7001))).toBe('unwanted');
    expect(await reasonOf(request(R1, HEAD_END, 7001))).toBe('granted');
    gateway.clock.pass(8 * 3600);
    expect(await reasonOf(request(M1, HEAD_END, 7001))).toBe('granted');
  });

  test('quiet hours that have begun end what is live', async () => {
    gateway.clock.utcMs = Date.UTC(2026, 0, 1, 23);
    const grant = await open(M1);
    await clerk.prefer(ACME, BY, { devices: M1, quietHours: night });
    expect(isOpen(grant)).toBe(false);
    expect(onRecord(grant)?.endCause).toBe('unwanted');
  });

  describe('so many grants a day', () => {
    const two = { devices: '*@meters.example', grantsPerDay: { grants: 2, zone: 'Europe/Berlin' } };
    const use = async (port: number) => {
      const reason = await reasonOf(request(M1, HEAD_END, port));
      const live = gateway.grants.live.atInner(inner('10.20.0.2'));
      for (const record of live) await gateway.grants.end(record, 'endedByServer');
      return reason;
    };

    test('are counted from the first that began today, by the clock of the zone; live ones stay', async () => {
      gateway.clock.utcMs = Date.UTC(2026, 0, 1, 22, 50); // 23:50 in Berlin
      expect(await use(7000)).toBe('granted');
      const live = await open(M1, HEAD_END, 7001);
      await clerk.prefer(ACME, BY, two);
      expect(isOpen(live)).toBe(true);
      expect(await reasonOf(request(M1, HEAD_END, 7002))).toBe('unwanted');
      gateway.clock.pass(600);
      expect(await use(7002)).toBe('granted');
      expect(await use(7002)).toBe('granted');
      expect(await use(7002)).toBe('unwanted');
      expect(await reasonOf(request(R1))).toBe('granted');
    });

    test('are counted over a restart', async () => {
      await clerk.prefer(ACME, BY, two);
      expect(await use(7000)).toBe('granted');
      await start();
      expect(await use(7000)).toBe('granted');
      await start();
      expect(await use(7000)).toBe('unwanted');
    });

    test('two requests at once cannot both be the last', async () => {
      await clerk.prefer(ACME, BY, { ...two, grantsPerDay: { grants: 1, zone: 'UTC' } });
      const both = await Promise.all([reasonOf(request(M1, HEAD_END, 7000)), reasonOf(request(M1, HEAD_END, 7001))]);
      expect(both).toEqual(['granted', 'unwanted']);
    });

    test('what was never opened is none of them', async () => {
      await clerk.prefer(ACME, BY, { ...two, grantsPerDay: { grants: 1, zone: 'UTC' } });
      const asked = request(M1);
      gateway.notReady = 'the gate is away';
      expect(await reasonOf(asked)).toBe('changedWhileDeciding');
      gateway.notReady = undefined;
      await start();
      expect(await use(7000)).toBe('granted');
      expect(await use(7000)).toBe('unwanted');
    });

    test('an extension is none of them', async () => {
      await clerk.prefer(ACME, BY, { ...two, grantsPerDay: { grants: 1, zone: 'UTC' } });
      const grant = await open(M1);
      gateway.clock.pass(60);
      expect(await gateway.extensions.extend(HEAD_END, grant.id, 900)).toMatchObject({ id: grant.id, state: 'live' });
    });
  });

  test('a thousand are as many as there may be', async () => {
    for (let i = 0; i < 1000; i++) {
      const preference = { devices: `n${i}@meters.example` as never, block: true };
      expect(await clerk.prefer(ACME, BY, preference)).toHaveProperty('id');
    }
    expect(await clerk.prefer(ACME, BY, { devices: M1, block: true })).toMatchObject({
      reason: 'preferencesExhausted',
    });
    expect(await reasonOf(request(M1))).toBe('granted');
  });
});

describe('what cannot be kept', () => {
  test('is not in force: nothing has changed', async () => {
    const grant = await open(M1);
    gateway.deskStore.close();
    await expect(clerk.withdraw(ACME, BY, 'head-end')).rejects.toMatchObject({ code: 'deskFailed' });
    expect(isOpen(grant)).toBe(true);
    expect(clerk.servers(ACME)).toMatchObject({ servers: ['head-end', 'other'], setBy: 'ruleFiles' });
  });
});

describe('the generation that a server is told', () => {
  const serve = () =>
    serverUseCases(gateway.ground, gateway.grants, gateway.extensions, gateway.events, undefined, digest);

  test('changes with what concerns the server, and with nothing that other tenants say', async () => {
    const useCases = serve();
    const [headEnd, other] = [HEAD_END, OTHER].map((who) => () => useCases.limits(who).generation);
    const seen = () => [headEnd?.(), other?.()];
    const first = seen();
    const block = { id: 'p1', devices: parseDevicePattern('*@rival.example') as DevicePattern, block: true } as const;
    const change = (user: never, made: Change) => gateway.desk.change(user, BY, () => ({ change: made }));

    // rival authorises the head end alone: the other server does not hear of it
    await change(RIVAL, { kind: 'prefer', preference: { ...block, by: BY, atMs: 0 } });
    const blocked = seen();
    expect(blocked[0]).not.toBe(first[0]);
    expect(blocked[1]).toBe(first[1]);
    await change(RIVAL, { kind: 'drop', id: 'p1' });
    expect(seen()).toEqual(first);

    // whom else a tenant authorises is no matter of a server that it goes on authorising
    await change(ACME, { kind: 'authorise', authorised: { servers: [HEAD_END.name], by: BY, atMs: 0 } });
    const withdrawn = seen();
    expect(withdrawn[0]).toBe(first[0]);
    expect(withdrawn[1]).not.toBe(first[1]);
    // of a tenant that does not authorise it a server hears nothing at all
    await change(ACME, {
      kind: 'prefer',
      preference: { ...block, devices: parseDevicePattern('*@meters.example') as DevicePattern, by: BY, atMs: 0 },
    });
    expect(seen()[0]).not.toBe(withdrawn[0]);
    expect(seen()[1]).toBe(withdrawn[1]);
    // other rules, and another start, concern everybody
    expect(serve().limits(OTHER).generation).not.toBe(withdrawn[1]);
    await gateway.grants.switchPolicy(() =>
      gateway.desk.lay(policyOf(TWO_TENANTS.replace('grantsPerDevice: 3', 'grantsPerDevice: 2'))),
    );
    expect(seen()[1]).not.toBe(withdrawn[1]);
  });
});
