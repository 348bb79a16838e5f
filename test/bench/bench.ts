/**
 * `npm run bench`: how fast the gateway is, and beside what.
 *
 *   --packets, --flood, --goodput, --grants, --promptness, --triggers, --unknown   only these parts (default: all)
 *   --policy              decisions over 10 and 10,000 rules, and what it takes to apply so many; left out otherwise
 *   --accounting          messages of RADIUS accounting a second, beside the codec alone; left out otherwise
 *   --registry            a million registered devices: import, export, start; left out otherwise
 *   --peers               beside fwknop-server and miniupnpd, as Debian packages them (installed if they are not)
 *   --streams             grants a second with 100 readers of streams, beside none; left out otherwise
 *   --scale               what many live grants cost; takes some minutes, and is left out otherwise
 *   --seconds N           of each measurement (default 1)
 *   --rounds N            how often each is repeated (default 5)
 *   --plot FILE           of the packets, as an SVG there
 *   --json                one JSON document instead of tables
 *
 * Nothing here asserts a speed: a figure means something only beside the one
 * it is compared with, taken in the same run on the same machine. All traffic
 * stays in network namespaces, which go when this ends or is interrupted.
 * What the figures mean: native-notes/performance.md.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release } from 'node:os';
import { parseArgs } from 'node:util';
import { measureAccounting, showAccounting } from './accounting.ts';
import { measureFlood, showFlood } from './flood.ts';
import { measureGoodput, showGoodput } from './goodput.ts';
import { measureGrants, showGrants } from './grants.ts';
import { measurePackets, showPackets } from './packets.ts';
import { measurePeers, missingPeers, showPeers } from './peers.ts';
import { measurePendingTriggers, showPendingTriggers } from './pending-triggers.ts';
import { plotPackets } from './plot.ts';
import { measurePolicy, showPolicy } from './policy.ts';
import { measurePromptness, showPromptness } from './promptness.ts';
import { measureRegistry, showRegistry } from './registry.ts';
import { measureScale, showScale } from './scale.ts';
import { measureStreams, showStreams } from './streams.ts';
import { measureTriggers, showTriggers } from './triggers.ts';
import { measureUnknown, showUnknown } from './unknown.ts';

const { values } = parseArgs({
  options: {
    packets: { type: 'boolean', default: false },
    flood: { type: 'boolean', default: false },
    goodput: { type: 'boolean', default: false },
    grants: { type: 'boolean', default: false },
    promptness: { type: 'boolean', default: false },
    triggers: { type: 'boolean', default: false },
    unknown: { type: 'boolean', default: false },
    policy: { type: 'boolean', default: false },
    peers: { type: 'boolean', default: false },
    accounting: { type: 'boolean', default: false },
    registry: { type: 'boolean', default: false },
    streams: { type: 'boolean', default: false },
    scale: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '5' },
    plot: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});

const all = !(
  [
    'packets',
    'flood',
    'goodput',
    'grants',
    'promptness',
    'triggers',
    'unknown',
    'policy',
    'peers',
    'accounting',
    'registry',
    'streams',
    'scale',
  ] as const
).some((part) => values[part]);
const seconds = positive('seconds', values.seconds);
const rounds = positive('rounds', values.rounds);
const progress = (what: string) => process.stderr.write(`${what}\n`);

// A way out by process.exit, so that everybody's clean-up runs.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

const machine = {
  kernel: release(),
  cpus: availableParallelism(),
  model: cpus()[0]?.model ?? 'unknown',
  node: process.version,
};
const packets = all || values.packets ? await measurePackets(rounds, seconds, progress) : undefined;
if (values.plot !== undefined && packets) writeFileSync(values.plot, plotPackets(packets));
const flood = all || values.flood ? await measureFlood(Math.max(seconds, 3), progress) : undefined;
const goodput = all || values.goodput ? await measureGoodput(rounds, seconds, progress) : undefined;
const grants = all || values.grants ? await measureGrants(rounds, seconds, progress) : undefined;
const promptness = all || values.promptness ? await measurePromptness(progress) : undefined;
const triggers = all || values.triggers ? await measureTriggers(rounds, seconds, progress) : undefined;
const pendingTriggers = all || values.triggers ? await measurePendingTriggers(progress) : undefined;
const unknown = all || values.unknown ? await measureUnknown(rounds, progress) : undefined;
if (values.peers && missingPeers().length > 0) {
  progress(`installing ${missingPeers().join(', ')}`);
  execFileSync('apt-get', ['-qq', 'install', '-y', '--no-install-recommends', ...missingPeers()], { stdio: 'ignore' });
}
const policy = values.policy ? await measurePolicy(rounds, progress) : undefined;
const scale = values.scale ? await measureScale(rounds, seconds, progress) : undefined;
const streams = values.streams ? await measureStreams(rounds, seconds, progress) : undefined;
const accounting = values.accounting ? await measureAccounting(rounds, progress) : undefined;
const registry = values.registry ? await measureRegistry(progress) : undefined;
const peers = values.peers ? await measurePeers(rounds, progress) : undefined;

if (values.json) {
  process.stdout.write(
    `${JSON.stringify({ machine, rounds, seconds, packets, flood, goodput, grants, promptness, triggers, pendingTriggers, unknown, streams, policy, scale, accounting, registry, peers }, null, 2)}\n`,
  );
} else {
  process.stdout.write(
    [
      `Linux ${machine.kernel}, ${machine.cpus} CPUs (${machine.model}), Node ${machine.node}`,
      `medians of ${rounds} rounds of ${seconds} s each, in brackets the lowest and the highest`,
      ...(packets ? ['', showPackets(packets)] : []),
      ...(flood ? ['', showFlood(flood)] : []),
      ...(goodput ? ['', showGoodput(goodput)] : []),
      ...(grants ? ['', showGrants(grants)] : []),
      ...(peers ? ['', showPeers(peers, grants?.rows.at(-1)?.perSecond.median)] : []),
      ...(promptness ? ['', showPromptness(promptness)] : []),
      ...(triggers ? ['', showTriggers(triggers)] : []),
      ...(pendingTriggers ? ['', showPendingTriggers(pendingTriggers)] : []),
      ...(unknown ? ['', showUnknown(unknown)] : []),
      ...(streams ? ['', showStreams(streams)] : []),
      ...(policy ? ['', showPolicy(policy)] : []),
      ...(accounting ? ['', showAccounting(accounting)] : []),
      ...(registry ? ['', showRegistry(registry)] : []),
      ...(scale ? ['', showScale(scale)] : []),
      '',
    ].join('\n'),
  );
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  process.stderr.write(`--${name}: expected a number above 0, not "${text}"\n`);
  process.exit(2);
}
