/**
 * TR 23.888 5.8.2 on the whole gateway, from the request of an MTC server to
 * the datagram at the device: triggers come from authorised servers only, and
 * who tries without being authorised is told to the MTC user.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { T8_BASE_PATH } from '../../agent/api/t8-routes.ts';
import { API_PORT, DEVICE_NAME } from '../agent.ts';
import { Capture } from '../capture.ts';
import { type Child, program, until } from '../child.ts';
import {
  COAP,
  NOBODY,
  PLAIN,
  SIEM,
  SOURCE_PORT,
  sinkUrl,
  TriggeringGateway,
  triggering,
} from '../device-triggering.ts';
import type { Network } from '../network.ts';
import { DEVICE, GATEWAY, INNER_GATEWAY, ROGUE, standardNetwork, UPLINK } from '../standard-network.ts';

/** Absent at first, and where it is then. */
const ABSENT = 'm2@meters.example';
const PLACE = '10.20.0.9';
/** Gets the address of the first. */
const NEXT = 'm3@meters.example';
const CONFIRMABLE = 0;

let network: Network;
let gateway: TriggeringGateway;
let onDevice: Child;
let plain: Child;
let wire: Capture;
beforeAll(async () => {
  network = standardNetwork();
  const names = [DEVICE_NAME, ABSENT, NEXT];
  gateway = new TriggeringGateway(network, `devices: [${names.map((name) => `{ externalId: ${name} }`)}]\n`);
  await network.run('device', ['ip', 'address', 'add', `${PLACE}/32`, 'dev', UPLINK]);
  await gateway.start();
  await device('bind', DEVICE_NAME, DEVICE.ipv4);
  [onDevice, plain, wire] = await Promise.all([
    network.spawn('device', program('test/coap-device.ts', String(COAP), DEVICE.ipv4, PLACE), { line: /^ready$/ }),
    network.spawn('device', program('test/device.ts', String(PLAIN), DEVICE.ipv4), { line: /^ready$/ }),
    Capture.start(network, 'device', UPLINK, 'udp'),
  ]);
});
afterAll(() => network.close());

const bytes = (text: string) => Buffer.from(text);
const came = (text: string) =>
  onDevice.line(new RegExp(`^coap ${INNER_GATEWAY.ipv4} ${SOURCE_PORT} POST /trigger ${text}$`));
async function device(verb: 'bind' | 'unbind', name: string, address: string): Promise<void> {
  const { status, stderr } = await gateway.agent.mtgate('device', verb, name, 'iot', address);
  expect(status, stderr).toBe(0);
}

describe('an authorised server', () => {
  test('reaches a CoAP device: confirmable, from the one source, this payload; SUCCESS when it acknowledged', async () => {
    const id = await gateway.trigger('read-meter');
    await came('read-meter');
    await gateway.becomes(id, 'SUCCESS');
    const [frame, ...again] = (await wire.through(bytes('read-meter'))).filter((one) =>
      Buffer.from(one).includes(bytes('read-meter')),
    );
    expect(again).toEqual([]);
    const coap = (frame as Uint8Array)[14 + 20 + 8] as number; // after Ethernet, IPv4 and UDP
    expect([coap >> 6, (coap >> 4) & 3]).toEqual([1, CONFIRMABLE]);
    expect(await gateway.told(id)).toEqual({ transaction: expect.stringContaining(id), result: 'SUCCESS' });
  });

  test('is told no more than UNCONFIRMED of plain UDP, though the device even answers', async () => {
    const id = await gateway.trigger('plain', { applicationPortId: PLAIN });
    await plain.line(/^udp \S+:5683 \S+ plain$/);
    await gateway.becomes(id, 'UNCONFIRMED');
    expect(await gateway.told(id)).toMatchObject({ result: 'UNCONFIRMED' });
    expect(await gateway.resultOf(id)).toBe('UNCONFIRMED');
    await until('its answer, counted as a stray beside that of the CoAP device above', async () => {
      const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
      const counted = ['{kind="answer"} 1', '{kind="stray"} 1'];
      return counted.every((one) => stdout.includes(`\nmtgate_trigger_source_datagrams_total${one}\n`)) || undefined;
    });
  });

  test('waits for an absent device; there priority goes first; recalled is not sent, replaced is', async () => {
    const to = { externalId: ABSENT };
    const first = await gateway.trigger('first', to);
    const second = await gateway.trigger('second', to);
    const recalled = await gateway.trigger('recalled', to);
    const urgent = await gateway.trigger('urgent', { ...to, priority: 'PRIORITY' });
    const brief = await gateway.trigger('brief', { ...to, validityPeriod: 1 });
    expect(await gateway.resultOf(first)).toBe('TRIGGERED');
    const replaced = await gateway.ask('PUT', `/${second}`, triggering('replacing', to));
    expect([replaced.status, replaced.body.deliveryResult]).toEqual([200, 'REPLACED']);
    const { status, body } = await gateway.ask('DELETE', `/${recalled}`);
    expect([status, body.deliveryResult]).toEqual([200, 'TERMINATE']);
    await gateway.becomes(brief, 'EXPIRED');
    expect(await gateway.told(brief)).toMatchObject({ result: 'EXPIRED' });

    const from = onDevice.lines.length;
    await device('bind', ABSENT, PLACE);
    for (const id of [urgent, first, second]) await gateway.becomes(id, 'SUCCESS');
    expect(onDevice.lines.slice(from).map((line) => line.split(' ').at(-1))).toEqual(['urgent', 'first', 'replacing']);
    for (const text of ['second', 'recalled', 'brief']) expect(wire.holding(bytes(text))).toEqual([]);
  });
});

describe('a server that is not authorised', () => {
  /** All of an answer but what is of its moment. */
  async function answerTo(externalId: string): Promise<string> {
    const { name, issued, from } = gateway.stranger;
    const { stdout } = await network.run(from, [
      ...['curl', '--silent', '--show-error', '--include', '--header', 'x-correlator: the-same'],
      ...['--cacert', gateway.agent.ca.certificateFile, '--cert', issued.certificateFile, '--key', issued.keyFile],
      ...[
        '--json',
        JSON.stringify(triggering('forged-payload', { externalId, notificationDestination: sinkUrl('/stranger') })),
      ],
      `https://${GATEWAY.ipv4}:${API_PORT}${T8_BASE_PATH}/${name}/transactions`,
    ]);
    return stdout.replace(/urn:uuid:[0-9a-f-]{36}/, 'INSTANCE').replace(/^date: .*$/im, 'DATE');
  }

  test('is answered as if there were no such device, its device gets nothing, and the MTC user is told who it was', async () => {
    const began = Date.now();
    const answer = await answerTo(DEVICE_NAME);
    expect(answer).toMatch(/^HTTP\/1.1 404 /);
    expect(answer).toContain('"cause":"INVEXTID"');
    expect(answer).toContain('INSTANCE');
    expect(await answerTo('m99@meters.example')).toBe(answer);
    expect(await answerTo('nobody@elsewhere.example')).toBe(answer);

    const { receiver, agent } = gateway;
    const reports = () =>
      receiver
        .received(SIEM)
        .flatMap(({ body }) => (JSON.parse(body) as { data: { reports: Record<string, string>[] } }).data.reports);
    const [report] = await until('the report', () => (reports().length > 0 ? reports() : undefined));
    const der = Buffer.from(agent.stranger.certificate.replace(/-----[^-]+-----/g, ''), 'base64');
    expect(report).toMatchObject({
      kind: 'refusal',
      reason: 'notAuthorisedByMtcUser',
      source: { address: ROGUE.ipv4, port: expect.any(Number) },
      proven: 'tls',
      device: DEVICE_NAME,
      protocol: 'trigger',
      devicePort: COAP,
      server: 'stranger',
      certificate: createHash('sha256').update(der).digest('hex'),
      count: 1,
    });
    const seen = Date.parse(report?.['firstSeen'] ?? '');
    expect(seen).toBeGreaterThanOrEqual(began - 1);
    expect(seen).toBeLessThanOrEqual(Date.now());
    expect(reports()).toHaveLength(1); // of what is nobody's device the MTC user hears nothing

    await gateway.trigger('marker');
    await wire.through(bytes('marker'));
    expect(wire.holding(bytes('forged-payload'))).toEqual([]);
  });

  test('may not use the name of one that is', async () => {
    const { issued, from } = gateway.stranger;
    const { status, body } = await gateway.ask('POST', '', triggering('forged-payload'), {
      ...gateway.headEnd,
      issued,
      from,
    });
    expect([status, body.cause]).toEqual([403, 'INVSCSID']);
    await gateway.trigger('second-marker');
    await wire.through(bytes('second-marker'));
    expect(wire.holding(bytes('forged-payload'))).toEqual([]);
  });
});

test('an address changes hands while its device is silent: the next holder gets nothing of what was for the former', async () => {
  const former = 'm1-secret';
  const id = await gateway.trigger(former, { applicationPortId: NOBODY });
  const sentTo = () => wire.holding(bytes(former)).length;
  await until('a retransmission', () => (sentTo() > 1 ? true : undefined));
  await device('unbind', DEVICE_NAME, DEVICE.ipv4);
  await device('bind', NEXT, DEVICE.ipv4);
  const before = sentTo();
  // The next holder's own is sent three times in at least 6 s: by then the former's would have come, 4 to 6 s after its last.
  await gateway.trigger('for-next', { externalId: NEXT, applicationPortId: NOBODY });
  const isOver = () => sentTo() > before || wire.holding(bytes('for-next')).length > 2;
  await until('what is sent again', () => isOver() || undefined, 30_000);
  expect(sentTo()).toBe(before);
  expect(await gateway.resultOf(id)).toBe('TRIGGERED'); // it waits for its device, wherever that is next
});
