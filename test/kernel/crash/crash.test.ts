/** `kill -9` at thirty moments, by a seed that is printed; CRASH_SEED repeats one, `npm run soak` goes on for longer. */
import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { crash } from './harness.ts';

const KILLS = 30;
const seed = Number(process.env['CRASH_SEED'] ?? randomInt(2 ** 32));

test(`killed ${KILLS} times, it keeps every promise (CRASH_SEED=${seed})`, async () => {
  const { kills, packets } = await crash({ seed, kills: KILLS });
  expect(kills).toBeGreaterThanOrEqual(KILLS);
  expect(packets.kept).toBeGreaterThan(KILLS * 100); // it has seen enough to speak
}, 300_000);
