/**
 * `npm run demo -- --ggsn`: the gateway beside a real user plane. Two meters
 * come and go at Debian's osmo-ggsn, and the second gets the addresses of the
 * first: what was granted to the first, and what it began itself, never
 * reaches the second. test/e2e/ggsn.test.ts runs the same steps.
 *
 * In the last step the GGSN's Stop is lost, so that the second meter's Start
 * is all that tells of the change. Who wants no packet to stray then has the
 * GGSN wait with the context for the answer to its Start (TS 29.061 clause
 * 16.3 lets it), and so does this one.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { address } from '../../agent/core/net.ts';
import { DEVICE_PORT } from '../agent.ts';
import { Capture } from '../capture.ts';
import { until } from '../child.ts';
import { Probe, type Target } from '../probe.ts';
import compilePrograms from '../programs.ts';
import { SERVER, UPLINK } from '../standard-network.ts';
import { APN, CONTEXT_POOL, FAMILIES, GGSN_ADDRESS, GN, sgsnAddress, TUN } from '../user-plane.ts';
import { A, B, type Flow, Meters, PROTOCOLS, SERVICE_PORT } from './meters.ts';
import { answer, must, Steps, say, silence, status } from './steps.ts';

const PICTURE = `
                             ┌── host of the user plane ──────────┐
  MTC server ${SERVER.ipv4} ──┤ mtgate ── ${TUN} ── osmo-ggsn       ├── GTP-U (Gn) ── sgsnemu ──┬── ${A.namespace}
                             │    └── accounting: radclient ──┘   │                           └── ${B.namespace}
                             └────────────────────────────────────┘
  APN ${APN}: of ${CONTEXT_POOL.ipv4} and ${CONTEXT_POOL.ipv6} one address and one prefix are free.
`;

/** GTP-C and GTP-U, and a GTPv1 Echo Request (TS 29.060 6, 7.2.1): flags, type, length, TEID, sequence number. */
const GTP_PORTS = [2123, 2152];
const ECHO_REQUEST = '\x32\x01\x00\x04\x00\x00\x00\x00\x00\x07\x00\x00';
const SILENCE_MS = 300;
/** What the server says to a granted endpoint, it says once in so many milliseconds. */
const EVERY_MS = 10;
/** So many packets of each flow must come after a change of hands; TCP sends again ever more seldom. */
const KNOCKS = { udp: 20, tcp: 1 } as const;
/** How often is looked whether they have. */
const LOOK_MS = 50;

async function hearNothingUntold(meters: Meters): Promise<string> {
  await meters.attach(A);
  const meter = await Probe.start(meters.network, A.namespace);
  for (const family of FAMILIES) {
    const to = { address: SERVER[family], port: SERVICE_PORT };
    await denied(meters, 'addressUnbound', () => silence(meter.udp({ to, waitMs: SILENCE_MS })));
    const reply = await meters.ask(A, family, 'udp');
    status(reply, 409);
    const { reason } = await meters.agent.refusal(reply.body);
    must(reason === 'deviceUnreachable', `refused with ${reason}`);
  }
  await meter.stop();
  return `it has ${meters.addresses.join(' and ')}, and what it says is denied: addressUnbound; a grant on it: 409, deviceUnreachable`;
}

async function reach(meters: Meters): Promise<string> {
  await meters.attach(A);
  await meters.start();
  const { network } = meters;
  const [gn, outside, meter] = await Promise.all([
    Capture.start(network, 'sgsn', GN, 'udp port 2152'),
    Capture.start(network, 'wan', UPLINK),
    meters.power(A),
  ]);
  const texts = FAMILIES.flatMap((family) => PROTOCOLS.map((protocol) => ({ family, protocol })));
  for (const { family, protocol } of texts) {
    const text = `hello over ${family} and ${protocol}`;
    await meters.exchange(A, family, protocol, text);
    await meter.line(new RegExp(`^${protocol} .* ${text}$`));
    await until(`"${text}" on Gn, both ways`, () => gn.holding(Buffer.from(text)).length >= 2 || undefined);
    await until(`"${text}" outside, both ways`, () => outside.holding(Buffer.from(text)).length >= 2 || undefined);
  }
  for (const inner of meters.addresses) must(outside.holding(bytesOf(inner)).length === 0, `${inner} was seen outside`);
  await Promise.all([gn.stop(), outside.stop()]);
  return 'IPv4 and IPv6, UDP and TCP: each packet seen on Gn within GTP-U, each answered; no inner address outside';
}

/** A meter that makes GTP itself could have contexts made, or speak as others: GTP is for SGSNs. */
async function speakGtp(meters: Meters): Promise<string> {
  await meters.attach(A);
  await meters.start();
  const meter = await Probe.start(meters.network, A.namespace);
  const sgsn = await Probe.start(meters.network, 'sgsn');
  for (const port of GTP_PORTS) {
    const question = { to: { address: GGSN_ADDRESS, port }, text: ECHO_REQUEST };
    must((await sgsn.udp(question)).outcome === 'answer', `the GGSN does not answer an SGSN on port ${port}`);
    await denied(meters, 'gatewayService', () => silence(meter.udp({ ...question, waitMs: SILENCE_MS })));
  }
  await Promise.all([meter.stop(), sgsn.stop()]);
  return `an Echo Request to ${GGSN_ADDRESS}, ports ${GTP_PORTS.join(' and ')}: the SGSN is answered, the meter is denied: gatewayService`;
}

/**
 * The second meter gets the addresses of the first, whose flows all knock on
 * meanwhile: none of their packets comes to it, none of its own goes out in
 * them, and it has flows of its own.
 */
async function changeHands(meters: Meters, told: 'Stop and Start' | 'Start'): Promise<string> {
  const { network, agent } = meters;
  await meters.attach(A);
  await meters.start();
  await meters.power(A);
  const held = meters.addresses.join(' and ');
  const flows = await meters.flows(A);
  const granted = flows.flatMap(({ granted, ...flow }) => (granted ? { ...flow, ...granted } : []));
  const toB = FAMILIES.map((family) => `dst host ${sgsnAddress(B, family)}`).join(' or ');
  const ends = flows.map(({ external }) => `(dst host ${external.address} and dst port ${external.port})`);
  const [gn, outside] = await Promise.all([
    Capture.start(network, 'sgsn', GN, `udp dst port 2152 and (${toB})`),
    Capture.start(network, 'wan', UPLINK, ends.join(' or ')),
  ]);
  const knocking = setInterval(() => granted.map(({ session }) => session.say(`for ${A.namespace}`)), EVERY_MS);
  try {
    if (told === 'Start') await meters.takeOver(B);
    else {
      await meters.leave('Stop');
      await meters.attach(B);
      await meters.start();
    }
    const got = meters.addresses.join(' and ');
    must(got === held, `${B.namespace} got ${got}, and not ${held}`);
    const cause = told === 'Start' ? 'addressReassigned' : 'deviceUnbound';
    for (const { id } of granted) {
      const ended = JSON.parse(await agent.daemon.line(new RegExp(`"${id}".*"event":"grantEnded"`)));
      must(ended.cause === cause, `grant ${id} ended by ${ended.cause}, and not by ${cause}`);
    }
    const onB = await Probe.start(network, B.namespace);
    const posing = `${B.namespace} posing as ${A.namespace}`;
    for (const { server, protocol } of granted)
      if (protocol === 'udp') await onB.udp({ to: server, from: { port: DEVICE_PORT }, text: posing, waitMs: LOOK_MS });
    const second = await meters.power(B);
    const knocks = await untilKnocked(flows, outside, gn);

    // What is for the second meter comes after all those, by the same way.
    const own: string[] = [];
    for (const family of FAMILIES) {
      const begun = `begun by ${B.namespace} over ${family}`;
      await answer(onB.udp({ to: { address: SERVER[family], port: SERVICE_PORT }, text: begun }), begun);
      const forB = `for ${B.namespace} over ${family}`;
      await meters.exchange(B, family, 'udp', forB);
      own.push(begun, forB);
    }
    await onB.stop();
    for (const text of own) await gn.through(Buffer.from(text));
    mustHoldNothingBut(own, gn);
    must(!second.lines.some((line) => line.includes(A.namespace)), `${B.namespace} heard what was for ${A.namespace}`);
    must(!granted.some(({ session }) => session.texts().includes(posing)), `the server heard ${posing}`);
    return `${held} went over; then ${knocks} packets of ${flows.length} flows came, and none of them to ${B.namespace}, which has its own; the grants ended: ${cause}`;
  } finally {
    clearInterval(knocking);
    await Promise.all([gn.stop(), outside.stop(), ...flows.map(({ session }) => session.stop())]);
  }
}

/** What is done makes the gate deny a packet for this reason. */
async function denied(meters: Meters, reason: string, act: () => Promise<void>): Promise<void> {
  const count = async () => (await meters.agent.status()).packets.denied[reason] ?? 0;
  const before = await count();
  await act();
  must((await count()) > before, `nothing was denied with ${reason}`);
}

/** From now on packets of each flow come to the gateway, and none to the second meter. @returns how many came */
function untilKnocked(flows: readonly Flow[], outside: Capture, gn: Capture): Promise<number> {
  const before = outside.frames().length;
  return until('packets of all flows', async () => {
    await delay(LOOK_MS);
    mustHoldNothingBut([], gn);
    const frames = outside.frames().slice(before);
    const enough = flows.every(({ protocol, external }) => countTo(frames, external) >= KNOCKS[protocol]);
    return enough ? frames.length : undefined;
  });
}

/** No packet of the server is there but those with these texts. */
function mustHoldNothingBut(own: readonly string[], capture: Capture): void {
  const isOwn = (frame: Uint8Array) => own.some((text) => Buffer.from(frame).includes(text));
  const strays = FAMILIES.flatMap((family) => capture.holding(bytesOf(SERVER[family])).filter((one) => !isOwn(one)));
  must(strays.length === 0, `${strays.length} packets of flows of ${A.namespace} came to ${B.namespace}`);
}

function bytesOf(text: string): Uint8Array {
  const { family, bytes } = address(text);
  return family === 'ipv4' ? bytes.subarray(12) : bytes;
}

/** How many frames go to an endpoint: behind the destination come source and destination port (IPv4 without options). */
function countTo(frames: readonly Uint8Array[], { address: host, port }: Target): number {
  const destination = bytesOf(host);
  return frames.filter((frame) => {
    const bytes = Buffer.from(frame);
    const at = bytes.indexOf(destination);
    return at >= 0 && bytes.readUInt16BE(at + destination.length + 2) === port;
  }).length;
}

async function changeHandsUnstopped(meters: Meters): Promise<string> {
  const seen = await changeHands(meters, 'Start');
  const alarms = meters.agent.logged('accountingAlarm').filter((line) => line['finding'] === 'addressTaken');
  must(alarms.length === FAMILIES.length, `addressTaken was alarmed ${alarms.length} times`);
  return `${seen}; alarmed: addressTaken`;
}

const STEPS: readonly (readonly [string, (meters: Meters) => Promise<string>])[] = [
  ['A meter has its contexts, but no Start was told: nothing of it passes', hearNothingUntold],
  ['Started: a server reaches it through grants and GTP-U', reach],
  ['It cannot speak GTP with the GGSN on its own', speakGtp],
  [
    'Its contexts are deleted and stopped, and the next meter gets its addresses',
    (meters) => changeHands(meters, 'Stop and Start'),
  ],
  ['The same with the Stop lost: the Start of the next one ends all that was', changeHandsUnstopped],
];

/** Each begins and ends with nobody attached, and says what it saw. */
export const GGSN_STEPS = STEPS.map(([title, act]) => ({
  title,
  act: (meters: Meters) => act(meters).finally(() => meters.leave('Stop')),
}));

/** @returns the exit code */
export async function ggsnDemo(): Promise<number> {
  say(PICTURE);
  const removePrograms = await compilePrograms(); // it starts more than forty of them
  const meters = await Meters.open();
  const steps = new Steps();
  for (const { title, act } of GGSN_STEPS) await steps.take(title, () => act(meters));
  await meters.close();
  removePrograms?.();
  return steps.end();
}
