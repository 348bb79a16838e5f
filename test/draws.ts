/** Random worlds that are to hold so much of each thing: what one draw had too little of comes with the next ones. */
import { expect } from 'vitest';

const DRAWS = 5;
/** Between the seeds of draws: neighbouring seeds make much alike. */
const APART = 0x3c6e_f372;

/** Draws until nothing is missing, `DRAWS` times at the most; then nothing may be. */
export async function drawUntil(
  first: number,
  draw: (seed: number) => Promise<void>,
  missing: () => readonly string[],
): Promise<void> {
  for (let drawn = 0; drawn === 0 || (drawn < DRAWS && missing().length > 0); drawn += 1)
    await draw((first + drawn * APART) % 2 ** 31);
  expect(missing()).toEqual([]);
}
