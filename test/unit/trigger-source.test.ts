/**
 * Triggers over real sockets on loopback: devices are servers of the library
 * `coap`, and plain sockets where one has to misbehave.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type OutgoingMessage } from 'coap';
import { generate, parse } from 'coap-packet';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { TriggerPlan } from '../../agent/core/trigger-plan.ts';
import type { RealmName } from '../../agent/core/words.ts';
import { systemClock, systemRandom } from '../../agent/host.ts';
import { openDelivery } from '../../agent/triggers/trigger-source.ts';
import { KeptLog } from '../clock.ts';

const IOT = 'iot' as RealmName;
const SHARED = 'shared' as RealmName;
const REALMS = [
  { realm: IOT, prefixes: [prefix('127.0.0.0/8'), prefix('::1/128')] },
  { realm: SHARED, prefixes: [prefix('10.20.0.0/16')] },
  { realm: 'other' as RealmName, prefixes: [prefix('10.20.4.0/24')] },
];
const never = new AbortController().signal;

let log: KeptLog;
let source: NonNullable<ReturnType<typeof openDelivery>>;
let stops: (() => unknown)[];
let sourcePort: number;

beforeEach(async () => {
  stops = [];
  log = new KeptLog();
  sourcePort = await freePort('127.0.0.9');
});

afterEach(async () => {
  for (const stop of stops.reverse()) await stop();
});

async function freePort(host: string): Promise<number> {
  const socket = createSocket('udp4').bind(0, host);
  await once(socket, 'listening');
  const { port } = socket.address();
  await new Promise<void>((closed) => socket.close(closed));
  return port;
}

function openSource(ports: readonly number[], more: Partial<TriggerPlan> = {}): typeof source {
  const ranges = ports.map((port) => ({ low: port, high: port }));
  const plan = { sourcePort, ports: ranges, coapPorts: ranges, coapPath: ['trigger'] };
  const triggers = { ...plan, sources: [address('127.0.0.9'), address('::1')], ...more };
  const opened = openDelivery({ triggers, inside: REALMS }, { clock: systemClock, random: systemRandom, log });
  if (!opened) throw new Error('there are triggers');
  source = opened;
  stops.push(() => source.close());
  return source;
}

async function coapDevice(host: string, answer: (request: IncomingMessage, response: OutgoingMessage) => void) {
  const server = createServer({ type: host.includes(':') ? 'udp6' : 'udp4' }, answer);
  const port = host.includes(':') ? sourcePort + 1 : await freePort(host);
  await new Promise<void>((listening) => server.listen(port, host, () => listening()));
  stops.push(() => new Promise<void>((closed) => server.close(() => closed())));
  return port;
}

async function plainDevice(host: string): Promise<{ socket: Socket; port: number }> {
  const socket = createSocket('udp4').bind(0, host);
  await once(socket, 'listening');
  stops.push(() => new Promise<void>((closed) => socket.close(closed)));
  return { socket, port: socket.address().port };
}

const at = (host: string, port: number, realm = IOT) => ({ inner: { realm, address: address(host) }, port });

for (const [family, host] of [
  ['IPv4', '127.0.0.2'],
  ['IPv6', '::1'],
] as const)
  test(`a CoAP device gets the trigger from the one source and acknowledges it: ${family}`, async () => {
    const got: unknown[] = [];
    const port = await coapDevice(host, (request, response) => {
      const { method, url, payload, rsinfo } = request;
      got.push([method, url, payload.toString(), rsinfo.address, rsinfo.port]);
      response.code = '2.04';
      response.end();
    });
    openSource([port]);
    expect(await source.deliver(at(host, port), Buffer.from('report'), never)).toBe('acknowledged');
    expect(got).toEqual([['POST', '/trigger', 'report', family === 'IPv4' ? '127.0.0.9' : '::1', sourcePort]]);
    expect(source.reading()).toEqual({ received: 1, stray: 0 });
  });

test('a CoAP device that answers late acknowledges first, and its response is acknowledged', async () => {
  const port = await coapDevice('127.0.0.2', (_request, response) => {
    response.code = '2.04';
    setTimeout(() => response.end(), 80); // the library sends its ACK after 50 ms
  });
  openSource([port]);
  expect(await source.deliver(at('127.0.0.2', port), Buffer.from('report'), never)).toBe('acknowledged');
});

test('a CoAP device that will not have it: rejected', async () => {
  const port = await coapDevice('127.0.0.2', (_request, response) => {
    response.code = '4.04';
    response.end();
  });
  openSource([port]);
  expect(await source.deliver(at('127.0.0.2', port), Buffer.from('report'), never)).toBe('rejected');
});

test('a silent CoAP device is asked again after two to three seconds, by the same message', async () => {
  const { socket, port } = await plainDevice('127.0.0.2');
  openSource([port]);
  const outcome = source.deliver(at('127.0.0.2', port), Buffer.from('report'), never);
  const [first] = await once(socket, 'message');
  const [second, { address: from, port: fromPort }] = await once(socket, 'message');
  expect(second.equals(first)).toBe(true);
  const { messageId } = parse(second);
  socket.send(generate({ code: '0.00', reset: true, messageId }), fromPort, from);
  expect(await outcome).toBe('rejected');
});

test('plain UDP is sent, and never said to be more', async () => {
  const { socket, port } = await plainDevice('127.0.0.2');
  openSource([port], { coapPorts: [] });
  const arrived = once(socket, 'message');
  expect(await source.deliver(at('127.0.0.2', port), Buffer.from('report'), never)).toBe('sent');
  const [datagram, from] = await arrived;
  expect(datagram.toString()).toBe('report');
  expect(from).toMatchObject({ address: '127.0.0.9', port: sourcePort });
});

test.each([
  ['plain UDP', []],
  ['CoAP', undefined],
] as const)('given up while its socket opens, it does not leave: %s', async (_, coapPorts) => {
  const { socket, port } = await plainDevice('127.0.0.2');
  openSource([port], coapPorts && { coapPorts });
  const texts: string[] = [];
  socket.on('message', (datagram: Buffer) => texts.push(datagram.toString('latin1').slice(-6)));
  const abort = new AbortController();
  const first = source.deliver(at('127.0.0.2', port), Buffer.from('former'), abort.signal);
  abort.abort();
  expect(await first).toBe('notSent');
  const next = new AbortController();
  const second = source.deliver(at('127.0.0.2', port), Buffer.from('latter'), next.signal);
  await once(socket, 'message');
  expect(texts).toEqual(['latter']);
  next.abort();
  await second;
});

test('nothing goes to a port that takes no triggers, from another port, or with too much in it', async () => {
  openSource([5683]);
  const payload = Buffer.from('report');
  expect(await source.deliver(at('127.0.0.2', 5684), payload, never)).toBe('rejected');
  expect(await source.deliver({ ...at('127.0.0.2', 5683), sourcePort: sourcePort + 1 }, payload, never)).toBe(
    'rejected',
  );
  expect(await source.deliver(at('127.0.0.2', 5683), Buffer.alloc(1025), never)).toBe('rejected');
  expect(await source.deliver(at('10.20.0.2', 5683, SHARED), payload, never)).toBe('notSent');
  expect(await source.deliver(at('127.0.0.2', 5683), payload, AbortSignal.abort())).toBe('notSent');
});

test('a family without a source, an address that is not here: not sent, told once a second at most', async () => {
  openSource([5683], { sources: [address('192.0.2.77')] });
  const payload = Buffer.from('report');
  expect(await source.deliver(at('::1', 5683), payload, never)).toBe('notSent');
  for (let i = 0; i < 3; i += 1) expect(await source.deliver(at('127.0.0.2', 5683), payload, never)).toBe('notSent');
  expect(log.of('triggerSourceFault')).toMatchObject([{ source: '192.0.2.77', port: sourcePort }]);
});

test('a device that floods the source port holds up nothing: another one is still reached', async () => {
  const { socket: hostile } = await plainDevice('127.0.0.3');
  const port = await coapDevice('127.0.0.2', (_request, response) => {
    response.code = '2.04';
    response.end();
  });
  openSource([port]);
  expect(await source.deliver(at('127.0.0.2', port), Buffer.from('one'), never)).toBe('acknowledged');
  const junk = [
    generate({ code: '0.00', ack: true, messageId: 1 }),
    generate({ code: '0.00', reset: true, messageId: 2 }),
    generate({ code: 'GET', confirmable: true, messageId: 3, token: Buffer.alloc(8) }),
    Buffer.alloc(1_400, 0x61),
    Buffer.alloc(0),
  ];
  for (let i = 0; i < 5_000; i += 1) hostile.send(junk[i % junk.length] as Buffer, sourcePort, '127.0.0.9');
  expect(await source.deliver(at('127.0.0.2', port), Buffer.from('two'), never)).toBe('acknowledged');
  expect(source.reading().stray).toBeGreaterThan(0);
});

test('without a section in agent.yaml there is no delivery', () => {
  expect(openDelivery({ inside: REALMS }, { clock: systemClock, random: systemRandom, log })).toBeUndefined();
});

test('what is closed sends nothing more', async () => {
  openSource([5683]);
  await source.close();
  expect(source.room).toBe(0);
  expect(await source.deliver(at('127.0.0.2', 5683), Buffer.from('late'), never)).toBe('notSent');
});
