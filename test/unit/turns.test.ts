/** Turns: nobody waits for more than one of each other's. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Admission } from '../../agent/api/admission.ts';
import { API_LIMITS } from '../../agent/api/limits.ts';
import { Turns } from '../../agent/api/turns.ts';

/** What comes when: a party brings work, or a piece of work is done. */
const arrivals = fc.array(fc.oneof(fc.constantFrom('a', 'b', 'c', 'd'), fc.constant('done')), { maxLength: 200 });

test('property: in any order of arrival, each is served behind its own and at most one of each other for each of those', async () => {
  await fc.assert(
    fc.asyncProperty(arrivals, fc.integer({ min: 1, max: 5 }), async (steps, atOnce) => {
      const turns = new Turns(atOnce);
      const served: string[] = [];
      let working = 0;
      const waiting: { party: string; ahead: number; servedBefore: number; turn: Promise<boolean> }[] = [];
      for (const step of steps) {
        if (step === 'done') {
          if (working === 0) continue;
          const some = waiting.length > 0;
          turns.done();
          if (!some) working -= 1;
          await Promise.resolve();
          await Promise.resolve();
          continue;
        }
        const ahead = waiting.filter(({ party }) => party === step).length;
        const turn = turns.take(step, 0);
        if (turn === true) {
          expect(waiting).toHaveLength(0); // nobody is overtaken
          expect(working).toBeLessThan(atOnce);
          working += 1;
          continue;
        }
        expect(working).toBe(atOnce); // nobody waits while there is room
        const mine = { party: step, ahead, servedBefore: served.length, turn };
        waiting.push(mine);
        void turn.then(() => {
          waiting.splice(waiting.indexOf(mine), 1);
          const meanwhile = served.slice(mine.servedBefore);
          for (const other of ['a', 'b', 'c', 'd'].filter((one) => one !== step)) {
            expect(meanwhile.filter((one) => one === other).length).toBeLessThanOrEqual(ahead + 1);
          }
          expect(meanwhile.filter((one) => one === step).length).toBe(ahead);
          served.push(step);
        });
      }
      expect(turns.working).toBe(working);
    }),
  );
});

test('who waits for too long is sent away, the others keep their turns', async () => {
  const turns = new Turns(1);
  expect(turns.take('a', 0)).toBe(true);
  const outcomes: string[] = [];
  for (const [party, atMs] of [
    ['a', 10],
    ['a', 30],
    ['b', 20],
  ] as const)
    void Promise.resolve(turns.take(party, atMs)).then((isTurn) => outcomes.push(`${party}${atMs} ${isTurn}`));
  turns.expire(25);
  await Promise.resolve();
  turns.done();
  await new Promise(setImmediate);
  expect(outcomes.sort()).toEqual(['a10 false', 'a30 true', 'b20 false']);
  expect(turns.working).toBe(1);
  turns.done();
  expect(turns.working).toBe(0);
});

describe('of requests', () => {
  const limits = { ...API_LIMITS.requests, underWay: { all: 8, least: 2, most: 4 } };

  test('each server has its part of what may be under way', () => {
    let servers = 2;
    const admission = new Admission(
      limits,
      () => servers,
      () => 0,
    );
    const enter = (server: string, times: number) =>
      Array.from({ length: times }, () => admission.enter(server)).filter(Boolean).length;
    expect([enter('a', 9), enter('b', 9)]).toEqual([4, 4]);
    admission.leave('a');
    expect([admission.underWay('a'), enter('a', 9)]).toEqual([3, 1]);
    servers = 100;
    expect([enter('b', 9), enter('c', 9)]).toEqual([0, 2]);
    for (let i = 0; i < 4; i++) admission.leave('a');
    expect(admission.underWay('a')).toBe(0);
  });

  test('a turn that does not come in time is none', async () => {
    let nowMs = 0;
    const admission = new Admission(
      { ...limits, atOnce: 1, waitMs: 2_000 },
      () => 1,
      () => nowMs,
    );
    expect(admission.turn('a')).toBe(true);
    const second = admission.turn('b');
    nowMs = 2_000;
    admission.sweep();
    nowMs = 2_001;
    admission.sweep();
    expect(await second).toBe(false);
    admission.done();
    expect(admission.turn('b')).toBe(true);
  });
});
