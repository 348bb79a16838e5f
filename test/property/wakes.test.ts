/**
 * Requests that wake their device, whatever is done in whatever order, and
 * killed at each of the four writes to the two databases, before it or behind:
 * when all has settled each request that waits has its trigger, and no trigger
 * is pending, or sent, for one that does not.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { DeliveryOutcome } from '../../agent/triggers/delivery.ts';
import { ask, DEVICES, HEAD_END, inner, M2, RULES } from '../gateway.ts';
import { settled, TestTriggers } from '../triggers.ts';

const PORTS = [5683, 7000];
const MANY = `${RULES.replace('requestsPerMinute: 10', 'requestsPerMinute: 1000')}
triggers:
  - { id: wake, allow: { servers: [head-end] }, limits: { validitySeconds: 120 } }
`;
const OUTCOMES: readonly DeliveryOutcome[] = ['acknowledged', 'sent', 'rejected', 'unanswered', 'notSent'];
const WRITES = ['insert', 'wait', 'endWait', 'end'] as const;

const port = fc.constantFrom(...PORTS);
const act = fc.oneof(
  fc.record({ do: fc.constant('request' as const), port }),
  fc.record({ do: fc.constant('giveUp' as const), port }),
  fc.record({ do: fc.constant('bind' as const), at: fc.constantFrom('10.20.0.9', 'fd00:20::9') }),
  fc.record({ do: fc.constant('unbind' as const), at: fc.constantFrom('10.20.0.9', 'fd00:20::9') }),
  fc.record({ do: fc.constant('deliver' as const), outcome: fc.constantFrom(...OUTCOMES) }),
  fc.record({ do: fc.constant('pass' as const), seconds: fc.integer({ min: 1, max: 200 }) }),
);
type Act = typeof act extends fc.Arbitrary<infer Value> ? Value : never;
/** Killed: at a write, before it or behind, in the midst of what is done. */
const step = fc.record({
  act,
  killedAt: fc.option(fc.record({ write: fc.constantFrom(...WRITES), isWritten: fc.boolean() }), { nil: undefined }),
});

async function take(fixture: TestTriggers, doing: Act): Promise<unknown> {
  const { gateway, delivery } = fixture;
  const { grants, bindings } = gateway;
  switch (doing.do) {
    case 'request': {
      const asking = ask({ device: { networkAccessIdentifier: M2 }, devicePort: doing.port, ipFamily: 'ipv4' });
      return grants.requestOrWait(HEAD_END, asking, 300, { payload: new Uint8Array() });
    }
    case 'giveUp': {
      const held = grants.waiting.withKey({
        ...{ server: HEAD_END.name, device: M2, family: 'ipv4', protocol: 'udp', devicePort: doing.port },
      });
      return held && grants.giveUp(held, 'endedByServer');
    }
    case 'bind':
      return bindings.bind(M2, inner(doing.at));
    case 'unbind':
      return bindings.unbind(inner(doing.at));
    case 'deliver':
      return delivery.underWay[0]?.done(doing.outcome);
    case 'pass':
      gateway.clock.pass(doing.seconds);
      await gateway.heartbeat.beat();
      await gateway.grants.sweep();
      return fixture.triggers.sweep();
  }
}

/** From here on one write is never heard of again; what is returned undoes it. */
function cut(fixture: TestTriggers, write: (typeof WRITES)[number], isWritten: boolean): () => void {
  const store = (write === 'insert' || write === 'end' ? fixture.store : fixture.gateway.store) as unknown as Record<
    string,
    (...written: unknown[]) => Promise<unknown>
  >;
  const real = store[write] as (...written: unknown[]) => Promise<unknown>;
  store[write] = async (...written) => {
    if (isWritten) await real(...written);
    return new Promise(() => {});
  };
  return () => {
    store[write] = real;
  };
}

function check(fixture: TestTriggers): void {
  const { grants, store } = fixture.gateway;
  const waiting = grants.listWaiting({}, 0, 100).requests;
  expect([...store.waits()].map(({ id }) => id).sort()).toEqual(waiting.map(({ id }) => id).sort());
  for (const { id } of waiting) {
    const trigger = fixture.triggers.ofGrant(id);
    expect(trigger).toMatchObject({ to: M2, grant: id });
    expect(trigger?.endCause).not.toBe('grantOver');
  }
  const pending = [...fixture.store.pending()].map(({ grant }) => grant ?? '');
  expect(pending.filter((grant) => !grants.waiting.get(grant))).toEqual([]);
  expect(fixture.triggers.queue.size).toBe(pending.length);
  expect(fixture.delivery.underWay.length).toBeLessThanOrEqual(Math.min(1, pending.length));
}

test('each request that waits has its trigger, and no trigger is without its request', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 14 }), async (steps) => {
      const fixture = await TestTriggers.started(MANY, DEVICES);
      for (const { act: doing, killedAt } of steps) {
        const undo = killedAt && cut(fixture, killedAt.write, killedAt.isWritten);
        const done = take(fixture, doing);
        await settled();
        if (undo) {
          undo();
          done.catch(() => {});
          await fixture.gateway.start(MANY);
          await fixture.start();
        } else await done;
        await settled();
        check(fixture);
      }
    }),
    { numRuns: 60 },
  );
}, 60_000);
