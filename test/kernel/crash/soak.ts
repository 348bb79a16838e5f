/**
 * Kills for as many times, or as long, as is wanted:
 *
 *   npm run soak -- [--kills N] [--seconds N] [--seed S]
 *
 * Prints what it does, and at the end what it saw; status 1 at the first
 * promise that was broken, with the seed, the kill, and a folder with the
 * database, the agent's log and everything that was asked and answered.
 */
import { parseArgs } from 'node:util';
import { crash } from './harness.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string' },
    seconds: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 32) },
  },
});
const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
const kills = Number(values.kills ?? (seconds === undefined ? 100 : Number.POSITIVE_INFINITY));
const seed = Number(values.seed);
const say = (line: string) => process.stdout.write(`${line}\n`);

say(`seed ${seed}`);
try {
  const outcome = await crash({ seed, kills, ...(seconds !== undefined && { seconds }), progress: say });
  const { sent, kept, arrived } = outcome.packets;
  say(`\n${outcome.kills} kills in ${outcome.seconds.toFixed(0)} s, and every promise was kept (seed ${seed}).`);
  say(`${sent} packets sent to grants that had not ended, ${kept} of them surely live; ${arrived} arrived in all.`);
  for (const [what, count] of Object.entries(outcome.counts).sort()) say(`  ${String(count).padStart(7)}  ${what}`);
} catch (fault) {
  say(`\n${(fault as Error).message}\n\nAgain: npm run soak -- --kills ${values.kills ?? 100} --seed ${seed}`);
  process.exitCode = 1;
}
