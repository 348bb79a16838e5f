/**
 * What a large policy costs: a decision over 10 rules and over 10,000, in turn
 * in one process, for rules that differ in one thing or another; and an apply
 * of the real daemon to 10,000 rules and 2,000 prefixes, without grants and
 * with 100,000 live ones that are judged anew, and how long its loop was held
 * meanwhile.
 */
import { address } from '../../agent/core/net.ts';
import { compileApart } from '../../agent/files/policy-compiler.ts';
import { decide } from '../../agent/policy/decide.ts';
import { NO_USAGE, type Policy } from '../../agent/policy/policy.ts';
import type { Question } from '../../agent/policy/question.ts';
import { ROOT } from '../child.ts';
import { policyOf } from '../rules.ts';
import { standardNetwork } from '../standard-network.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { holdsOf, longestHold, prepared, RULES, start } from './scale.ts';

const FEW = 10;
const MANY = 10_000;
const SERVERS = 2_000;
const LIVE = 100_000;
/** So many decisions are timed at once. */
const BATCH = 2_000;
const POOL_PORTS = 6_400;

const WORKER = new URL(`file://${ROOT}dist/files/policy-worker.js`);

/** Rules that differ in one thing, and a request that one of them, or the last of all, is for. */
interface Shape {
  readonly name: string;
  readonly rule: (i: number) => string;
  readonly device?: (i: number) => string;
  readonly port?: (i: number) => number;
  /** One tenant for each domain, as far as there are names. */
  readonly tenants?: true;
}

const allow = (match: string) => `allow: ${match}, limits: { durationSeconds: 60 }`;
const SHAPES: readonly Shape[] = [
  { name: 'ports of one server', rule: (i) => allow(`{ servers: [s0], ports: [${i + 1}] }`), port: (i) => i + 1 },
  {
    name: 'domains of one server, 2,000 tenants',
    rule: (i) => allow(`{ servers: [s0], devices: ["*@d${i}.example"] }`),
    device: (i) => `m@d${i % SERVERS}.example`,
    tenants: true,
  },
  {
    name: 'device names of one domain',
    rule: (i) => allow(`{ devices: ["site${i}-*@example"] }`),
    device: (i) => `site${i}-1@example`,
  },
  {
    name: 'servers by domains by ports',
    rule: (i) =>
      allow(
        `{ servers: [s${i % 10}], devices: ["*@d${Math.floor(i / 10) % 10}"], ports: [${1 + Math.floor(i / 100)}] }`,
      ),
    device: () => 'm@d0',
    port: () => 1,
  },
  { name: 'denies', rule: (i) => (i === 0 ? allow('{}') : `deny: { ports: [${i + 1}], reason: no }`), port: () => 1 },
];

interface DecideRow {
  readonly name: string;
  readonly fewMicroseconds: Figure;
  readonly manyMicroseconds: Figure;
  readonly ratio: Figure;
}

export interface PolicyResults {
  readonly decide: readonly DecideRow[];
  /** In a thread of its own, taken in pieces and indexed. */
  readonly compileSeconds: Figure;
  /** Without live grants: compiled and switched. */
  readonly applyToNone: Apply;
  readonly apply: Apply;
}

interface Apply {
  readonly seconds: Figure;
  readonly loopHeldMs: Figure;
}

export async function measurePolicy(rounds: number, progress: (what: string) => void): Promise<PolicyResults> {
  const rows = SHAPES.map((shape) => {
    progress(`policy: decisions, ${shape.name}`);
    return measureShape(shape, rounds);
  });
  progress('policy: compiling');
  const compiling: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const began = performance.now();
    const compiled = await compileApart(WORKER, {
      files: [{ file: 'rules.yaml', text: largeRules() }],
      surroundings: {},
    });
    if ('issues' in compiled) throw new Error(compiled.issues[0]?.message);
    compiling.push((performance.now() - began) / 1_000);
  }
  const applyToNone = await measureApply(0, rounds, progress);
  const apply = await measureApply(LIVE, rounds, progress);
  return { decide: rows, compileSeconds: figure(compiling), applyToNone, apply };
}

function measureShape(shape: Shape, rounds: number): DecideRow {
  const cases = [FEW, MANY].map((count) => ({ ...world(shape, count), micros: [] as number[] }));
  const ratios: number[] = [];
  for (let round = -2; round < rounds; round++) {
    const [few = 0, many = 0] = cases.map(({ policy, question, micros }) => {
      const began = performance.now();
      for (let i = 0; i < BATCH; i++) {
        if (decide(policy, question).verdict !== 'allow') throw new Error(`${shape.name}: the bench is refused`);
      }
      const each = ((performance.now() - began) * 1_000) / BATCH;
      if (round >= 0) micros.push(each);
      return each;
    });
    if (round >= 0) ratios.push(many / few);
  }
  const [few = figure([]), many = figure([])] = cases.map(({ micros }) => figure(micros));
  return { name: shape.name, fewMicroseconds: few, manyMicroseconds: many, ratio: figure(ratios) };
}

function world(
  { rule, device = () => 'm@d0.example', port = () => 1, tenants }: Shape,
  count: number,
): { policy: Policy; question: Question } {
  const users = Array.from({ length: tenants ? Math.min(count, SERVERS) : 0 }, (_, i) => {
    return `  u${i}: { devices: ["*@d${i}.example", "*@*.d${i}.example"], authorises: [s0] }`;
  });
  const text = [
    'servers:',
    ...Array.from({ length: 10 }, (_, i) => server(i)),
    'mtcUsers:',
    ...(tenants ? users : ['  u: { devices: ["*@*"], authorises: [s0] }']),
    'rules:',
    ...Array.from({ length: count }, (_, i) => `  - { id: r${i}, ${rule(i)} }`),
  ];
  const i = Math.floor(Math.min(count, SERVERS) / 2);
  const question: Question = {
    server: 's0' as never,
    device: { externalId: device(i) as never, attributes: {}, boundFamilies: ['ipv4'] },
    protocol: 'udp',
    port: port(i),
    durationSeconds: 60,
    requestAddress: address('100.64.0.1'),
    usage: NO_USAGE,
    nowMs: 'anyTime',
  };
  return { policy: policyOf(text.join('\n')), question };
}

/** In the shared address space (RFC 6598), which nothing in the bench uses. */
function server(i: number): string {
  const source = `100.${64 + (i >> 8)}.${i & 255}.0/24`;
  return `  s${i}: { certificates: [{ uri: "urn:s:${i}", issuer: mtc-ca }], sources: [${source}] }`;
}

/** The bench's own policy, and many servers and rules beside. */
function largeRules(): string {
  const rules = Array.from({ length: MANY }, (_, i) => {
    const domains = `["*@d${i % SERVERS}.example"]`;
    return `  - { id: r${i}, ${allow(`{ servers: [s${i % SERVERS}], devices: ${domains}, protocols: [udp], ports: [${1 + Math.floor(i / SERVERS)}, "61616-61631"] }`)} }`;
  });
  const users = Array.from(
    { length: SERVERS },
    (_, i) => `  u${i}: { devices: ["*@d${i}.example"], authorises: [s${i}] }`,
  );
  return RULES.replace('servers:\n', `servers:\n${Array.from({ length: SERVERS }, (_, i) => server(i)).join('\n')}\n`)
    .replace('mtcUsers:\n', `mtcUsers:\n${users.join('\n')}\n`)
    .replace('rules:\n', `rules:\n${rules.join('\n')}\n`);
}

async function measureApply(live: number, rounds: number, progress: (what: string) => void): Promise<Apply> {
  const network = standardNetwork();
  try {
    const agent = await prepared(network, live, POOL_PORTS, progress);
    const daemon = await start(agent);
    const seconds: number[] = [];
    const holds: number[] = [];
    for (let round = 0; round <= rounds; round++) {
      progress(`policy: apply over ${live} grants, round ${round} of ${rounds}`);
      for (const [isLarge, rules] of [
        [true, largeRules()],
        [false, RULES],
      ] as const) {
        agent.write('rules/rules.yaml', rules);
        const beganMs = Date.now();
        const said = await agent.mtgate('apply', '--yes');
        const endedMs = Date.now();
        if (said.status !== 0) throw new Error(said.stderr);
        if (round === 0 || !isLarge) continue; // the first gives new servers their numbers
        seconds.push((endedMs - beganMs) / 1_000);
        holds.push(longestHold(await holdsOf(daemon), beganMs, endedMs));
      }
    }
    await daemon.stop();
    return { seconds: figure(seconds), loopHeldMs: figure(holds) };
  } finally {
    await network.close();
  }
}

export function showPolicy({ decide: rows, compileSeconds, applyToNone, apply }: PolicyResults): string {
  const head = ['a decision, rules that differ in', `${FEW} rules µs`, `${MANY} rules µs`, 'ratio'];
  const lines = rows.map(({ name, fewMicroseconds, manyMicroseconds, ratio }) => [
    name,
    show(fewMicroseconds, 1),
    show(manyMicroseconds, 1),
    show(ratio, 2),
  ]);
  return `${table(head, lines)}

Compiled, ${MANY} rules and ${SERVERS} prefixes: ${show(compileSeconds, 2)} s.
\`mtgate apply --yes\` of ${MANY} rules and ${SERVERS} prefixes, compiled and switched without live grants: ${show(applyToNone.seconds, 2)} s; the loop was held ${show(applyToNone.loopHeldMs, 0)} ms at the longest.
The same, shown, forecast and switched, with ${LIVE} live grants judged anew: ${show(apply.seconds, 2)} s; the loop was held ${show(apply.loopHeldMs, 0)} ms at the longest.`;
}
