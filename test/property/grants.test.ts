/**
 * What must hold of grants, whatever is done with them in whatever order, two
 * things at a time and with a store that takes its time: record, memory and
 * gate say the same, nothing lives for longer than its rule gives, and none
 * waits for a device that can be reached.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { type GrantStore, openStore } from '../../agent/grants/store.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { entriesOf } from '../entries.ts';
import { ask, DEVICES, HEAD_END, inner, M1, M2, policyOf, RULES, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';

const SECOND = 1_000_000_000n;
const PORTS = [5683, 7000, 7001];

const rules = (durationSeconds: number, totalSeconds: number, ports = '5683, "7000-7010"') =>
  RULES.replace(
    'durationSeconds: 900, totalSeconds: 3600',
    `durationSeconds: ${durationSeconds}, totalSeconds: ${totalSeconds}`,
  )
    .replace(', requestsPerMinute: 10', '')
    .replace('5683, "7000-7010"', ports);
const POLICIES = [rules(900, 3600), rules(60, 100), rules(300, 300), rules(900, 900, '7000')].map((text) =>
  policyOf(text),
);

const seconds = fc.integer({ min: 1, max: 1000 });
const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('request' as const), port: fc.constantFrom(...PORTS), seconds }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('extend' as const), port: fc.constantFrom(...PORTS), seconds }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('end' as const), port: fc.constantFrom(...PORTS) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('rebind' as const), device: fc.constantFrom(M1, M2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('policy' as const), policy: fc.constantFrom(...POLICIES) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('wait' as const),
      port: fc.constantFrom(...PORTS),
      seconds,
      waits: seconds,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('suspend' as const), seconds: fc.integer({ min: 1, max: 200 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('notReady' as const), why: fc.constantFrom('no table', undefined) }),
  },
);
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;
/** What is done at once, and how long after it the next begins. */
const round = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 3 }),
  pass: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 290 })),
});

/** The store, one write after the other, and each known a while after it is durable. */
function unhurried(store: GrantStore): GrantStore {
  let turn: Promise<unknown> = Promise.resolve();
  const slow =
    <Written extends unknown[], Result>(write: (...written: Written) => Promise<Result>) =>
    async (...written: Written): Promise<Result> => {
      const result = turn.then(() => write(...written));
      turn = result.catch(() => {});
      const outcome = await result;
      for (let tick = 0; tick < 5; tick++) await Promise.resolve();
      return outcome;
    };
  return {
    ...store,
    insert: slow(store.insert),
    extend: slow(store.extend),
    end: slow(store.end),
    lower: slow(store.lower),
    wait: slow(store.wait),
    grantWait: slow(store.grantWait),
    endWait: slow(store.endWait),
  };
}

class World {
  readonly gateway: TestGateway;
  /** The end each grant had, to see that nothing but an extension raises one. */
  readonly ends = new Map<string, bigint>();

  constructor() {
    this.gateway = new TestGateway(unhurried(openStore(':memory:', IDENTITIES)));
  }

  async start(): Promise<void> {
    const { gateway } = this;
    await gateway.start(
      rules(900, 3600),
      DEVICES.map(({ device }) => ({ device, bindings: [] })),
    );
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
  }

  async take(doing: Step): Promise<void> {
    const { gateway } = this;
    const { grants, clock } = gateway;
    switch (doing.do) {
      case 'request':
        return this.#within(
          await grants.request(HEAD_END, ask({ devicePort: doing.port, durationSeconds: doing.seconds })),
        );
      case 'wait': {
        const asking = ask({ devicePort: doing.port, durationSeconds: doing.seconds });
        const answer = await grants.requestOrWait(HEAD_END, asking, doing.waits);
        return 'waitsUntilMs' in answer ? undefined : this.#within(answer);
      }
      case 'extend': {
        const record = this.#onPort(doing.port);
        if (!record) return;
        return this.#within(await gateway.extensions.extend(HEAD_END, record.id, doing.seconds), record);
      }
      case 'end': {
        const record = this.#onPort(doing.port) ?? this.#waiting().find(({ devicePort }) => devicePort === doing.port);
        return record && grants.giveUp(record, 'endedByServer');
      }
      case 'rebind':
        return void (await gateway.bindings.bind(doing.device, inner('10.20.0.2')));
      case 'policy':
        return grants.switchPolicy(doing.policy);
      case 'suspend':
        clock.suspend(doing.seconds);
        return gateway.heartbeat.beat();
      case 'notReady':
        gateway.notReady = doing.why;
    }
  }

  /** A grant just given lives for no longer than its rule says. */
  #within(answer: GrantRecord | { readonly reason: string }, before?: GrantRecord): void {
    if ('reason' in answer) return;
    this.ends.set(answer.id, answer.expiresAtNs);
    const { grants, clock } = this.gateway;
    const limits = grants.policy.allows.find(({ id }) => id === answer.rule)?.limits;
    if (grants.policy.version !== answer.policyVersion || !limits || !grants.live.get(answer.id)) return;
    if (before && answer.expiresAtNs === before.expiresAtNs) return;
    expect(answer.expiresAtNs - clock.boottimeNs()).toBeLessThanOrEqual(BigInt(limits.durationSeconds) * SECOND);
    expect(answer.expiresAtMs - answer.startedAtMs).toBeLessThanOrEqual(limits.totalSeconds * 1000);
  }

  #waiting(): readonly WaitingRequest[] {
    return this.gateway.grants.listWaiting({}, 0, 1000).requests;
  }

  #onPort(port: number): GrantRecord | undefined {
    return this.gateway.grants
      .list({ server: HEAD_END.name }, undefined, 100)
      .records.find(({ devicePort }) => devicePort === port);
  }

  /** Record, memory and gate say the same. */
  check(): void {
    const { grants, store, memory, clock, directory } = this.gateway;
    const waiting = this.#waiting();
    const onRecord = [...store.waits()].filter(({ waitsUntilNs }) => waitsUntilNs > clock.boottimeNs());
    expect(new Map(onRecord.map((one) => [one.id, one]))).toEqual(new Map(waiting.map((one) => [one.id, one])));
    // None waits for what is there, nor for what it has.
    expect(waiting.filter(({ device, family }) => directory.bindingOf(device, family))).toEqual([]);
    expect(waiting.filter((one) => grants.live.get(one.id) ?? grants.live.withKey(one))).toEqual([]);
    const live = [...grants.live.all()];
    expect(new Map([...store.live()].map((record) => [record.id, record]))).toEqual(
      new Map(live.map((record) => [record.id, record])),
    );
    for (const { id, index, number, expiresAtNs } of live) {
      const entry = memory.entry(index);
      expect([entry?.mapping.number, entry?.endNs]).toEqual([number, expiresAtNs - clock.suspended]);
      expect(expiresAtNs).toBeLessThanOrEqual(this.ends.get(id) ?? expiresAtNs);
    }
    const numbers = new Set(live.map(({ number }) => number));
    const open = entriesOf(memory).filter(({ endNs }) => endNs > clock.monotonicNs());
    expect(open.filter(({ mapping }) => !numbers.has(mapping.number))).toEqual([]);
  }
}

test('record, memory and gate say the same, and nothing lives longer than its rule gives', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 12 }), async (rounds) => {
      const world = new World();
      const { gateway } = world;
      await world.start();
      for (const { steps, pass } of rounds) {
        await Promise.all(steps.map((doing) => world.take(doing)));
        world.check();
        gateway.clock.pass(pass);
        await gateway.heartbeat.beat();
        await gateway.grants.sweep();
        world.check();
      }
    }),
    { numRuns: 60 },
  );
}, 60_000);
