/**
 * `npm run scan`: everything that scanners have, in full, at a gateway with
 * 200 live grants of another server, and the same at the gateway taken away.
 * It prints a table of what each found, and ends with status 1 where anything
 * was found, answered or let in at the closed one, or where a scan found
 * nothing at the open one either. It takes some minutes, all of it in network
 * namespaces. native-notes/scan.md says what is scanned and what was found.
 */
import { type Crafted, craftedPackets, nameIn } from './crafted.ts';
import { scans } from './programs.ts';
import { knowledgeOf, scanAll, sendAll } from './run.ts';
import { ScanStand, type Seen } from './stand.ts';

const print = (line: string) => process.stdout.write(`${line}\n`);
const entered = ({ inside }: Seen, { name, family }: Crafted) =>
  inside.some((frame) => Buffer.from(frame).includes(nameIn(name, family)));

print('opening 200 grants');
const stand = await ScanStand.build();
let wrong = 0;
const judge = (right: boolean, words: string) => {
  if (!right) wrong += 1;
  print(`${right ? '  ' : '! '}${words}`);
};
try {
  const all = scans(knowledgeOf(stand), 'full');
  const crafted = craftedPackets(stand.live, stand.resting);
  const attack = async (state: string) => {
    const seconds: Record<string, number> = {};
    let found: Record<string, readonly string[]> = {};
    const begun = performance.now();
    const seen = await stand.watch(async () => {
      found = await scanAll(stand, all, (name, _, ms) => {
        seconds[name] = ms / 1000;
      });
      await sendAll(stand, crafted);
    });
    print(
      `${all.length} scans and ${crafted.length} crafted packets at the ${state} gateway took ${Math.round((performance.now() - begun) / 1000)} s`,
    );
    return { found, seen, seconds };
  };
  const closed = await attack('closed');
  judge(closed.seen.outside.length === 0, `${closed.seen.outside.length} packets of the gateway answered`);
  judge(closed.seen.inside.length === 0, `${closed.seen.inside.length} packets went in`);
  const deaf = await stand.deaf();
  judge(deaf.length === 0, `${stand.live.length - deaf.length} of ${stand.live.length} grants still carry`);
  await stand.open();
  const open = await attack('open');
  print(
    `\n  ${'scan'.padEnd(64)} ${'closed: found'.padStart(14)} ${'in'.padStart(6)}  ${'open: found'.padStart(12)} ${'in'.padStart(6)}`,
  );
  for (const [name, finds] of Object.entries(closed.found)) {
    const there = open.found[name] ?? [];
    const took = [closed, open].map(({ seconds }) => `${(seconds[name] ?? 0).toFixed(1)} s`.padStart(6));
    const row = `${String(finds.length).padStart(14)} ${took[0]}  ${String(there.length).padStart(12)} ${took[1]}`;
    judge(finds.length === 0 && there.length > 0, `${name.padEnd(64)} ${row}`);
    for (const find of finds) print(`    ${find}`);
  }
  const sure = crafted.filter(({ entersOpen }) => entersOpen);
  for (const one of sure)
    if (!entered(open.seen, one)) judge(false, `${one.name} over ${one.family} did not enter the open gateway`);
  const went = crafted.filter((one) => entered(open.seen, one)).length;
  print(`  crafted: 0 of ${crafted.length} entered the closed gateway, ${went} the open one`);
  for (const frame of [...closed.seen.outside, ...closed.seen.inside].slice(0, 20))
    print(`! ${Buffer.from(frame).toString('hex')}`);
} finally {
  await stand.close();
}
print(wrong === 0 ? '\nnothing was found' : `\n${wrong} wrong`);
process.exitCode = wrong === 0 ? 0 : 1;
